/* A driver without a GPU: "device" memory is the heap, and work in a stream is done when somebody waits for it.
 *
 * STUB_DEVICES: how many there are (1), STUB_INTEGRATED: whether they share the CPU's memory (1), STUB_MULTIPROCESSORS (8),
 * STUB_FAIL="cuMemAlloc_v2=2": what a function answers instead of working. STUB_STICKY="cuStreamSynchronize=700": the same,
 * and from then on all that needs a context answers that, as after an error that stays with the process; stub_poison(700) begins
 * it by hand. stub_live() counts what was not freed, stub_depth() the contexts that this thread pushed and did not pop.
 * stub_flags() is how the primary context waits, stub_call(stream, function) gives work of the caller's own to a stream.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, CAPTURE = 901 };
enum { LONGEST = 4096 };

typedef struct { void *to; const void *from; size_t size; void *event; void (*call)(void); } Work;
typedef struct { Work work[LONGEST]; int length; int capturing; } Queue; /* a stream, and a graph too */
typedef struct { Queue *stream; int passed; } Event;

static int live, retained, poison;
static unsigned spins;
static __thread int current;

static int asked_for(const char *variable, const char *name) {
    const char *fail = getenv(variable);
    size_t length = strlen(name);
    return fail && !strncmp(fail, name, length) && fail[length] == '=' ? atoi(fail + length + 1) : 0;
}
static int failing(const char *name) {
    if (!poison && (poison = asked_for("STUB_STICKY", name))) return poison;
    return asked_for("STUB_FAIL", name);
}
static int number(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }
#define BEGIN do { int fails = failing(__func__); if (fails) return fails; } while (0)
#define IN_CONTEXT do { BEGIN; if (poison) return poison; if (!current) return INVALID_CONTEXT; } while (0)

static void run(Queue *queue, Event *until) {
    int k = 0, stop = 0;
    for (; k < queue->length && !stop; k++) {
        Work *work = &queue->work[k];
        if (work->size) memcpy(work->to, work->from, work->size);
        if (work->call) work->call();
        if (work->event) ((Event *)work->event)->passed = 1;
        stop = until && work->event == until;
    }
    queue->length -= k;
    memmove(queue->work, queue->work + k, queue->length * sizeof(Work));
}
static int add(Queue *queue, Work work) {
    if (queue->length == LONGEST) run(queue, NULL);
    queue->work[queue->length++] = work;
    return OK;
}

int stub_live(void) { return live + retained; }
unsigned stub_flags(void) { return spins; }
int stub_depth(void) { return current; }
void stub_poison(int code) { poison = code; }
int stub_capturing(Queue *stream) { return stream->capturing; }
int stub_call(Queue *stream, void (*call)(void)) { return add(stream, (Work){.call = call}); }

int cuGetErrorName(int code, const char **name) {
    *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OTHER";
    return OK;
}
int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }
int cuInit(unsigned flags) { BEGIN; (void)flags; return OK; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { BEGIN; *count = number("STUB_DEVICES", 1); return OK; }
int cuDeviceGet(int *device, int index) { BEGIN; *device = index; return OK; }
int cuDeviceGetName(char *name, int size, int device) { BEGIN; (void)device; snprintf(name, size, "Orin"); return OK; }
int cuDeviceTotalMem_v2(size_t *size, int device) { BEGIN; (void)device; *size = (size_t)8 << 30; return OK; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    BEGIN;
    (void)device;
    *value = which == 16 ? number("STUB_MULTIPROCESSORS", 8) : which == 18 ? number("STUB_INTEGRATED", 1) : which == 75 ? 8 : which == 76 ? 7 : 0;
    return OK;
}
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { BEGIN; (void)device; spins = flags; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { BEGIN; (void)device; *context = &retained; retained++; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { BEGIN; (void)device; retained--; return OK; }
int cuCtxPushCurrent_v2(void *context) { BEGIN; if (poison) return poison; if (context != &retained || !retained) return INVALID_CONTEXT; current++; return OK; }
int cuCtxSynchronize(void) { IN_CONTEXT; return OK; }
int cuCtxPopCurrent_v2(void **context) { if (!current) return INVALID_CONTEXT; *context = &retained; current--; return OK; }

static int allocate(void **pointer, size_t size) {
    if (!size || posix_memalign(pointer, 256, size)) return size ? OUT_OF_MEMORY : INVALID_VALUE;
    memset(*pointer, 0xAB, size);
    live++;
    return OK;
}
int cuMemAlloc_v2(uintptr_t *address, size_t size) { IN_CONTEXT; return allocate((void **)address, size); }
int cuMemFree_v2(uintptr_t address) { IN_CONTEXT; free((void *)address); live--; return OK; }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    IN_CONTEXT;
    return flags == 2 ? allocate(pointer, size) : INVALID_VALUE; /* CU_MEMHOSTALLOC_DEVICEMAP */
}
int cuMemFreeHost(void *pointer) { IN_CONTEXT; free(pointer); live--; return OK; }
int cuMemHostGetDevicePointer_v2(uintptr_t *address, void *pointer, unsigned flags) {
    IN_CONTEXT;
    if (flags) return INVALID_VALUE;
    *address = (uintptr_t)pointer;
    return OK;
}

int cuStreamCreate(Queue **stream, unsigned flags) {
    IN_CONTEXT;
    if (flags != 1) return INVALID_VALUE; /* CU_STREAM_NON_BLOCKING */
    *stream = calloc(1, sizeof(Queue));
    live++;
    return OK;
}
int cuStreamDestroy_v2(Queue *stream) { IN_CONTEXT; free(stream); live--; return OK; }
int cuStreamSynchronize(Queue *stream) {
    IN_CONTEXT;
    if (stream->capturing) return CAPTURE;
    run(stream, NULL);
    return OK;
}
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t size, Queue *stream) {
    IN_CONTEXT;
    return add(stream, (Work){(void *)to, from, size, NULL, NULL});
}
int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t size, Queue *stream) {
    IN_CONTEXT;
    return add(stream, (Work){to, (void *)from, size, NULL, NULL});
}

int cuEventCreate(Event **event, unsigned flags) {
    IN_CONTEXT;
    if (flags != 2) return INVALID_VALUE; /* CU_EVENT_DISABLE_TIMING */
    *event = calloc(1, sizeof(Event));
    live++;
    return OK;
}
int cuEventDestroy_v2(Event *event) { IN_CONTEXT; free(event); live--; return OK; }
int cuEventRecord(Event *event, Queue *stream) {
    IN_CONTEXT;
    *event = (Event){stream, 0};
    return add(stream, (Work){NULL, NULL, 0, event, NULL});
}
int cuEventSynchronize(Event *event) {
    IN_CONTEXT;
    if (event->stream && !event->passed) run(event->stream, event);
    return OK;
}

int cuStreamBeginCapture_v2(Queue *stream, int mode) {
    IN_CONTEXT;
    if (mode != 1) return INVALID_VALUE; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    run(stream, NULL); /* so that all that is in the queue at the end was recorded */
    stream->capturing = 1;
    return OK;
}
int cuStreamEndCapture(Queue *stream, Queue **graph) {
    if (!stream->capturing) return INVALID_VALUE;
    stream->capturing = 0;
    BEGIN;
    *graph = malloc(sizeof(Queue));
    memcpy(*graph, stream, sizeof(Queue));
    stream->length = 0;
    live++;
    return OK;
}
int cuGraphDestroy(Queue *graph) { IN_CONTEXT; free(graph); live--; return OK; }
int cuGraphInstantiateWithFlags(Queue **executable, Queue *graph, unsigned long long flags) {
    IN_CONTEXT;
    if (flags) return INVALID_VALUE;
    *executable = malloc(sizeof(Queue));
    memcpy(*executable, graph, sizeof(Queue));
    live++;
    return OK;
}
int cuGraphLaunch(Queue *executable, Queue *stream) {
    IN_CONTEXT;
    for (int k = 0; k < executable->length; k++) add(stream, executable->work[k]);
    return OK;
}
int cuGraphExecDestroy(Queue *executable) { IN_CONTEXT; free(executable); live--; return OK; }

/* How cuda-bindings finds functions: a name without its version. */
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    char name[128];
    static const char *const endings[] = {"_v2", "", "WithFlags"};
    (void)version, (void)flags;
    *function = NULL;
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    for (int k = 0; self && !*function && k < 3; k++) {
        snprintf(name, sizeof name, "%s%s", symbol, endings[k]);
        *function = dlsym(self, name);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : 500;
}
