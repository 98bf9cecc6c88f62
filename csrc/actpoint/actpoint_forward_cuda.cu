#include "actpoint/actpoint_cuda.h"

namespace ggnet::deform {

#define GGNET_DEFINE(T, kMath) template void forward<T, kMath>(const DeformForwardParams&, void*);
GGNET_EACH_MATH(GGNET_DEFINE)

}  // namespace ggnet::deform
