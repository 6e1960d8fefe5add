/* SPDX-License-Identifier: Apache-2.0 */
/* A disk and a clock that fail when told; see disk_faults.py, which builds and drives this.
 *
 * Preloaded into a process (LD_PRELOAD, ld.so(8)), for the files below one folder:
 *   - fsync and fdatasync copy what the kernel holds of the file to a shadow: what is in the
 *     shadow survives a power cut, nothing else does. A folder's names survive when the folder
 *     was synced. Real files stand for the kernel's page cache, so that any number of
 *     processes see each other's writes at once, as they do.
 *   - one of them, or every one from call N on, fails with EIO; as in the kernel, the pages
 *     that it was to write then count as clean and are never written by a later sync
 *     (https://wiki.postgresql.org/wiki/Fsync_Errors), unless they are written to again.
 *   - each of them waits for as long as it is told to.
 *   - writes that make a file longer fail with ENOSPC from call N on.
 *   - the wall clock is shifted.
 * Everything is told through a shared page of memory, at any time, to all processes at once.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define BLOCK (64 * PAGE)

struct control {
    uint64_t syncs;
    uint64_t sync_fails_from; /* 1: the next one; 0: none */
    uint64_t sync_fails_times;
    uint64_t sync_failures;
    uint64_t growths;
    uint64_t full_from;
    uint64_t full_failures;
    int64_t clock_offset; /* nanoseconds */
    uint64_t poisoned;    /* whether a sync ever failed */
    uint64_t syncs_held;  /* not 0: every sync waits until it is */
};

static struct control none;
static struct control *control = &none;
static char scope[PATH_MAX], shadow[PATH_MAX];
static size_t scope_length;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void)
{
    real_fsync = next("fsync");
    real_fdatasync = next("fdatasync");
    real_write = next("write");
    real_pwrite = next("pwrite64");
    real_ftruncate = next("ftruncate64");
    real_clock_gettime = next("clock_gettime");
    const char *where = getenv("DISK_FAULTS_CONTROL");
    if (where == NULL)
        return;
    int fd = open(where, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED)
        return;
    control = page;
    const char *found = getenv("DISK_FAULTS_SCOPE");
    const char *copies = getenv("DISK_FAULTS_SHADOW");
    if (found != NULL && copies != NULL) {
        snprintf(scope, sizeof scope, "%s", found);
        snprintf(shadow, sizeof shadow, "%s", copies);
        scope_length = strlen(scope);
    }
}

/* Whether fd is a file or folder that this disk carries. Cheap for sockets and pipes. */
static int is_ours(int fd, struct stat *about)
{
    if (scope_length == 0)
        return 0;
    int saved = errno;
    char link[64], path[PATH_MAX];
    ssize_t length = -1;
    if (fstat(fd, about) == 0 && (S_ISREG(about->st_mode) || S_ISDIR(about->st_mode))) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        length = readlink(link, path, sizeof path - 1);
    }
    errno = saved;
    if (length < (ssize_t)scope_length || strncmp(path, scope, scope_length) != 0)
        return 0;
    return path[scope_length] == 0 || length == (ssize_t)scope_length || path[scope_length] == '/';
}

/* A name that no later file has, also when it gets the same inode. */
static int key_of(int fd, const char *path, char *key, size_t size)
{
    struct statx about;
    if (statx(fd, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &about) != 0)
        return -1;
    snprintf(key, size, "%llu-%lld-%u", (unsigned long long)about.stx_ino,
             (long long)about.stx_btime.tv_sec, about.stx_btime.tv_nsec);
    return 0;
}

static int open_copy(const char *copies, char what, const char *key, int flags)
{
    char path[PATH_MAX + 300];
    snprintf(path, sizeof path, "%s/%c-%s", copies, what, key);
    return open(path, flags | O_CLOEXEC, 0600);
}

/* Bring the shadow of fd up to date: the pages that differ, but those that count as clean. */
static int keep_file(const char *copies, int fd, const char *key)
{
    static __thread char now[BLOCK], then[BLOCK];
    char clean[BLOCK / PAGE];
    struct stat about;
    int own = -1, copy = open_copy(copies, 'f', key, O_RDWR | O_CREAT);
    if (copy < 0)
        return -1;
    flock(copy, LOCK_EX);
    int marks = control->poisoned ? open_copy(copies, 'c', key, O_RDONLY) : -1;
    if (fstat(fd, &about) == 0)
        real_ftruncate(copy, about.st_size);
    for (off_t at = 0;; at += BLOCK) {
        ssize_t got = pread(own < 0 ? fd : own, now, BLOCK, at);
        if (got < 0 && errno == EBADF && own < 0) { /* opened to write only: never SQLite's */
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            if ((own = open(link, O_RDONLY | O_CLOEXEC)) < 0)
                break;
            got = pread(own, now, BLOCK, at);
        }
        if (got <= 0)
            break;
        memset(then, 0, BLOCK);
        memset(clean, 0, sizeof clean);
        if (pread(copy, then, BLOCK, at) < 0)
            break;
        if (marks >= 0 && pread(marks, clean, sizeof clean, at / PAGE) < 0)
            break;
        for (ssize_t page = 0; page * PAGE < got; page++) {
            ssize_t length = got - page * PAGE < PAGE ? got - page * PAGE : PAGE;
            if (clean[page] || memcmp(now + page * PAGE, then + page * PAGE, length) == 0)
                continue;
            real_pwrite(copy, now + page * PAGE, length, at + page * PAGE);
        }
    }
    if (own >= 0)
        close(own);
    if (marks >= 0)
        close(marks);
    close(copy);
    return 0;
}

/* Note which pages a failed sync has left unwritten for good. */
static void forget_pages(const char *copies, int fd, const char *key)
{
    static __thread char now[PAGE], then[PAGE];
    int copy = open_copy(copies, 'f', key, O_RDWR | O_CREAT);
    int marks = open_copy(copies, 'c', key, O_RDWR | O_CREAT);
    control->poisoned = 1;
    for (off_t at = 0; copy >= 0 && marks >= 0; at += PAGE) {
        memset(now, 0, PAGE);
        memset(then, 0, PAGE);
        if (pread(fd, now, PAGE, at) <= 0 || pread(copy, then, PAGE, at) < 0)
            break;
        if (memcmp(now, then, PAGE) != 0)
            real_pwrite(marks, "\1", 1, at / PAGE);
    }
    if (copy >= 0)
        close(copy);
    if (marks >= 0)
        close(marks);
}

/* Pages that are written to are dirty again. */
static void touch_pages(int fd, off_t at, size_t length)
{
    char key[128];
    if (!control->poisoned || length == 0 || key_of(fd, "", key, sizeof key) != 0)
        return;
    int marks = open_copy(shadow, 'c', key, O_RDWR);
    if (marks < 0)
        return;
    for (off_t page = at / PAGE; page <= (off_t)(at + length - 1) / PAGE; page++)
        real_pwrite(marks, "\0", 1, page);
    close(marks);
}

/* Remember the names in a folder. */
static int keep_folder(const char *copies, const char *path, const char *key)
{
    char name[PATH_MAX + 300], there[PATH_MAX + 300], of[128];
    DIR *folder = opendir(path);
    if (folder == NULL)
        return -1;
    snprintf(name, sizeof name, "%s/d-%s.%d", copies, key, (int)getpid());
    FILE *list = fopen(name, "we");
    for (struct dirent *entry; list != NULL && (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (key_of(dirfd(folder), entry->d_name, of, sizeof of) == 0)
            fprintf(list, "%s\t%s\n", of, entry->d_name);
    }
    closedir(folder);
    if (list == NULL || fclose(list) != 0)
        return -1;
    snprintf(there, sizeof there, "%s/d-%s", copies, key);
    return rename(name, there);
}

static int sync_of(int fd, int (*really)(int))
{
    struct stat about;
    if (!is_ours(fd, &about))
        return really(fd);
    int saved = errno;
    char key[128], link[64], path[PATH_MAX];
    uint64_t call = __atomic_add_fetch(&control->syncs, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&control->syncs_held, __ATOMIC_SEQ_CST))
        usleep(1000);
    uint64_t from = control->sync_fails_from;
    if (key_of(fd, "", key, sizeof key) != 0)
        return really(fd);
    if (from != 0 && call >= from && call - from < control->sync_fails_times) {
        __atomic_add_fetch(&control->sync_failures, 1, __ATOMIC_SEQ_CST);
        if (S_ISREG(about.st_mode))
            forget_pages(shadow, fd, key);
        errno = EIO;
        return -1;
    }
    if (S_ISREG(about.st_mode)) {
        keep_file(shadow, fd, key);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            keep_folder(shadow, path, key);
        }
    }
    errno = saved;
    return 0;
}

int fsync(int fd) { return sync_of(fd, real_fsync); }

int fdatasync(int fd) { return sync_of(fd, real_fdatasync); }

/* Whether the disk is too full for fd to reach this size. */
static int is_full(const struct stat *about, off_t size)
{
    if (!S_ISREG(about->st_mode) || size <= about->st_size)
        return 0;
    uint64_t call = __atomic_add_fetch(&control->growths, 1, __ATOMIC_SEQ_CST);
    if (control->full_from == 0 || call < control->full_from)
        return 0;
    __atomic_add_fetch(&control->full_failures, 1, __ATOMIC_SEQ_CST);
    errno = ENOSPC;
    return 1;
}

static int may_write(int fd, off_t at, size_t length)
{
    struct stat about;
    if (!is_ours(fd, &about))
        return 1;
    if (is_full(&about, at + (off_t)length))
        return 0;
    touch_pages(fd, at, length);
    return 1;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t at)
{
    return may_write(fd, at, length) ? real_pwrite(fd, data, length, at) : -1;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at)
{
    return pwrite64(fd, data, length, at);
}

ssize_t write(int fd, const void *data, size_t length)
{
    if (scope_length != 0) {
        int saved = errno;
        struct stat about;
        if (is_ours(fd, &about)) {
            int flags = fcntl(fd, F_GETFL);
            off_t at = flags & O_APPEND ? about.st_size : lseek(fd, 0, SEEK_CUR);
            if (!may_write(fd, at, length))
                return -1;
        }
        errno = saved;
    }
    return real_write(fd, data, length);
}

int ftruncate64(int fd, off_t size)
{
    struct stat about;
    if (is_ours(fd, &about) && is_full(&about, size))
        return -1;
    return real_ftruncate(fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int posix_fallocate64(int fd, off_t at, off_t length)
{
    static int (*really)(int, off_t, off_t);
    struct stat about;
    if (is_ours(fd, &about) && is_full(&about, at + length))
        return ENOSPC;
    if (really == NULL)
        really = next("posix_fallocate64");
    return really(fd, at, length);
}

int posix_fallocate(int fd, off_t at, off_t length) { return posix_fallocate64(fd, at, length); }

int clock_gettime(clockid_t which, struct timespec *now)
{
    if (real_clock_gettime == NULL) /* asked for before our own beginning */
        real_clock_gettime = next("clock_gettime");
    int status = real_clock_gettime(which, now);
    int64_t offset = control->clock_offset;
    if (status == 0 && offset != 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t nanoseconds = now->tv_nsec + offset % 1000000000;
        now->tv_sec += offset / 1000000000 + (nanoseconds >= 1000000000) - (nanoseconds < 0);
        now->tv_nsec = (nanoseconds + 1000000000) % 1000000000;
    }
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *there)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (there != NULL)
        *there = precise.tv_sec;
    return precise.tv_sec;
}

/* For the test's own process: what is there now counts as synced. */
int disk_faults_adopt(const char *copies, const char *path)
{
    char key[128];
    struct stat about;
    int status = -1, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &about) == 0 && key_of(fd, "", key, sizeof key) == 0)
        status = S_ISDIR(about.st_mode) ? keep_folder(copies, path, key) : keep_file(copies, fd, key);
    close(fd);
    return status;
}

int disk_faults_key(const char *path, char *key, size_t size)
{
    return key_of(AT_FDCWD, path, key, size);
}
