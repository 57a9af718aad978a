/* SPDX-License-Identifier: Apache-2.0
   What Baton asks of libcuda.so.1 when no kernel is launched: a device of compute capability 9.0. */
int cuInit(unsigned flags) { (void)flags; return 0; }
int cuGetErrorName(int error, const char** name) { (void)error; *name = "pretended"; return 0; }
int cuGetErrorString(int error, const char** text) { (void)error; *text = "pretended"; return 0; }
int cuCtxGetDevice(int* device) { *device = 0; return 0; }
int cuDeviceGetAttribute(int* value, int which, int device) {
  (void)device;
  *value = which == 75 ? 9 : 0;
  return 0;
}
int cuLibraryLoadData(void) { return 1; }
int cuLibraryUnload(void) { return 1; }
int cuLibraryGetKernel(void) { return 1; }
int cuKernelGetFunction(void) { return 1; }
int cuKernelSetAttribute(void) { return 1; }
int cuLaunchKernelEx(void) { return 1; }
int cuTensorMapEncodeTiled(void) { return 1; }
