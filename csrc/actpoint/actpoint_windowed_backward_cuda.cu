#include "actpoint/actpoint_cuda.h"

namespace ggnet::deform::windowed {

#define GGNET_DEFINE(T) template void backward<T>(const DeformDataGradParams&, float*, void*);
GGNET_EACH_HALF(GGNET_DEFINE)

}  // namespace ggnet::deform::windowed
