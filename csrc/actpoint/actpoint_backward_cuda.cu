#include "actpoint/actpoint_cuda.h"

namespace ggnet::deform {

#define GGNET_DEFINE(T, kMath) template void backward<T, kMath>(const DeformDataGradParams&, void*);
GGNET_EACH_MATH(GGNET_DEFINE)

}  // namespace ggnet::deform
