// A libcuda.so.1 without a GPU: enough of the driver for a program to load machine code and launch kernels, none of
// which run. What was asked for is kept in the structs below, which the tests read.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

typedef int status;
enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500, MOST_VALUES = 16, CONTEXTS = 8 };

// Set by the tests.
int stub_version = 13000, stub_major = 9, stub_minor = 0, stub_devices = 2, stub_capturing = 0, stub_launch_status = 0;
int stub_sizes[MOST_VALUES];  // bytes of each parameter of the next launch; 0 ends them

// Read by the tests.
struct {
  int launches, loads, device;
  unsigned grid, threads, shared;
  uint64_t stream;
  char kernel[128];
  uint64_t values[MOST_VALUES];
  int attribute, attribute_value, attribute_device;
} stub_seen;

static char contexts[CONTEXTS];  // the context of a device is the address of its place
static __thread char* current;
static char names[1024][128];  // a kernel is the address of its name
static int kernels;

status cuInit(unsigned flags) { return SUCCESS; }
// NVRTC asks for it, and does without.
status cuGetExportTable(const void** table, const void* id) { return NOT_FOUND; }
status cuDriverGetVersion(int* version) { return *version = stub_version, SUCCESS; }
status cuDeviceGetCount(int* count) { return *count = stub_devices, SUCCESS; }
status cuDeviceGet(int* device, int index) { return *device = index, SUCCESS; }
status cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? stub_major : attribute == 76 ? stub_minor : attribute == 97 ? 232448 : 1;
  return SUCCESS;
}
status cuDevicePrimaryCtxRetain(char** context, int device) { return *context = &contexts[device], SUCCESS; }
status cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
status cuCtxGetCurrent(char** context) { return *context = current, SUCCESS; }
status cuCtxSetCurrent(char* context) { return current = context, SUCCESS; }
status cuCtxPushCurrent_v2(char* context) { return current = context, SUCCESS; }
status cuCtxGetDevice(int* device) { return current ? (*device = (int)(current - contexts), SUCCESS) : 201; }
status cuStreamIsCapturing(void* stream, int* capturing) { return *capturing = stub_capturing, SUCCESS; }
status cuGetErrorString(status s, const char** text) { return *text = "an error of the stub", SUCCESS; }
status cuGetErrorName(status s, const char** text) { return *text = "STUB_ERROR", SUCCESS; }

status cuLibraryLoadData(void** library, const void* code, void* a, void* b, unsigned n, void* c, void* d, unsigned m) {
  if (memcmp(code, "\177ELF", 4) != 0 && memcmp(code, "//", 2) != 0) return 200;  // neither a cubin nor PTX
  return *library = names, stub_seen.loads++, SUCCESS;
}
status cuLibraryUnload(void* library) { return SUCCESS; }
status cuLibraryGetKernel(char** kernel, void* library, const char* name) {
  *kernel = strncpy(names[kernels++], name, sizeof names[0] - 1);
  return SUCCESS;
}
status cuKernelSetAttribute(int attribute, int value, char* kernel, int device) {
  stub_seen.attribute = attribute, stub_seen.attribute_value = value, stub_seen.attribute_device = device;
  return SUCCESS;
}
typedef struct {
  unsigned grid[3], block[3], shared;
  uint64_t stream;
  void* attributes;
  unsigned attribute_count;
} launch;
status cuLaunchKernelEx(const launch* config, char* kernel, void** values, void** extra) {
  if (stub_launch_status != SUCCESS) return stub_launch_status;
  stub_seen.launches++, stub_seen.device = current ? (int)(current - contexts) : -1;
  stub_seen.grid = config->grid[0], stub_seen.threads = config->block[0], stub_seen.shared = config->shared;
  stub_seen.stream = config->stream;
  strcpy(stub_seen.kernel, kernel);
  memset(stub_seen.values, 0, sizeof stub_seen.values);
  for (int i = 0; i < MOST_VALUES && stub_sizes[i]; ++i) memcpy(&stub_seen.values[i], values[i], stub_sizes[i]);
  return SUCCESS;
}
status cuLaunchKernel(char* kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, uint64_t stream, void** values, void** extra) {
  launch config = {{gx, gy, gz}, {bx, by, bz}, shared, stream};
  return cuLaunchKernelEx(&config, kernel, values, extra);
}

status cuGetProcAddress_v2(const char* symbol, void** function, int version, uint64_t flags, int* found) {
  char second[160];
  strcat(strcpy(second, symbol), "_v2");
  *function = dlsym(RTLD_DEFAULT, symbol);
  if (!*function) *function = dlsym(RTLD_DEFAULT, second);
  if (found) *found = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}
