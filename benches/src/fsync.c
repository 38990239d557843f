/* Preloaded into the collector by the bench `intake`: counts calls of fdatasync in the file $BENCH_SYNCS, and makes each of them
 * take $BENCH_SYNC_MS longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile uint64_t *count;
static useconds_t delay;
static int (*real)(int);

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("BENCH_SYNCS"), *ms = getenv("BENCH_SYNC_MS");
    real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    delay = ms ? (useconds_t)atoi(ms) * 1000 : 0;
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) count = page;
        close(file);
    }
}

int fdatasync(int file) {
    if (count) __sync_fetch_and_add(count, 1);
    if (delay) usleep(delay);
    return real(file);
}
