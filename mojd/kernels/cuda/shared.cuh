// Shared memory whose size is said by the launch. Where kernels run on the CPU, it is defined before.
#pragma once

#ifndef MOJD_SHARED
#define MOJD_SHARED(type, name) extern __shared__ type name[]
#endif
