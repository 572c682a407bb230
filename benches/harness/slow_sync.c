/* LD_PRELOAD: a disk whose syncs take longer. Each fsync and fdatasync returns SLOW_SYNC_US microseconds after it is done; those of
   several threads are slow side by side, as on a disk with a queue. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

typedef int sync_call(int file);

static int slowly(const char *name, int file) {
    sync_call *real = (sync_call *)dlsym(RTLD_NEXT, name);
    const char *wanted = getenv("SLOW_SYNC_US");
    long microseconds = wanted ? atol(wanted) : 0;
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    int result = real(file);
    int error = errno;
    while (nanosleep(&pause, &pause) == -1 && errno == EINTR) {
    }
    errno = error;
    return result;
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
