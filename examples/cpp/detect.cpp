// Runs a network that `ggnet export --format aoti` wrote: detect MODEL.pt2 GGNET_LIBRARY IMAGE.ppm
// The image is a binary PPM of the size that the network was exported for.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdlib>
#include <fstream>
#include <iostream>

torch::Tensor read_ppm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int width = 0, height = 0, most = 0;
  if (!(file >> kind >> width >> height >> most) || kind != "P6" || most != 255)
    throw std::runtime_error(std::string(path) + " is no binary PPM of 8 bits");
  file.get();  // the line's end
  auto pixels = torch::empty({height, width, 3}, torch::kUInt8);
  if (!file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel()))
    throw std::runtime_error(std::string(path) + " is cut short");
  return pixels.permute({2, 0, 1}).unsqueeze(0).to(torch::kFloat32).div(255).contiguous();
}

int main(int count, char** arguments) try {
  if (count != 4) throw std::runtime_error("usage: detect MODEL.pt2 GGNET_LIBRARY IMAGE.ppm");
  // The library registers ggnet's operators when it is loaded.
  if (!dlopen(arguments[2], RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  c10::InferenceMode no_gradients;
  // Without it, an image of another size or layout is not refused, but read as if it were right.
  setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 1);
  torch::inductor::AOTIModelPackageLoader model(arguments[1]);
  auto found = model.run({read_ppm(arguments[3])});
  auto scores = found[0][0], verbs = found[1][0], boxes = found[3][0], labels = found[6][0];
  for (int i = 0; i < 5; ++i) {
    auto box = boxes[i].contiguous();
    std::cout << scores[i].item<float>() << " verb " << verbs[i].item<int64_t>() << " object "
              << labels[i].item<int64_t>() << " at";
    for (int side = 0; side < 4; ++side) std::cout << ' ' << box[side].item<float>();
    std::cout << '\n';
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 2;
}
