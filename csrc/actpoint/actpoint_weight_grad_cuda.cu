#include "actpoint/actpoint_cuda.h"

namespace ggnet::deform {

#define GGNET_DEFINE(T, kMath) \
  template void weight_grad<T, kMath>(const DeformWeightGradParams&, void*);
GGNET_EACH_MATH(GGNET_DEFINE)

}  // namespace ggnet::deform
