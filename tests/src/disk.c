/* A disk with faults, put between a program and the C library with LD_PRELOAD.
 *
 * It looks only at files below the folder named in FAULTY_FOLDER; everything else goes through.
 *
 * While the file named in FAULTY_CONTROL exists, calls on those files fail. Each of its lines is
 *
 *     CALL ERRNO PASSES
 *
 * with CALL one of write, sync, open, truncate: the calls of that kind fail with that error once so
 * many have passed since the file was last changed. `tear` is a write of which the first half gets
 * there.
 *
 * Where FAULTY_SYNCED names a file, each sync that succeeds appends `BYTES PATH`: what of that file
 * the disk has for certain. What was written behind it may be gone after a power loss. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define KINDS 5
static const char *const names[KINDS] = {"write", "tear", "sync", "open", "truncate"};
enum kind { WRITE, TEAR, SYNC, OPEN, TRUNCATE };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct timespec changed;
static ino_t inode;
static int codes[KINDS];
static long passes[KINDS];

#define REAL(name, type) \
    static type real; \
    if (!real) real = (type)dlsym(RTLD_NEXT, name)

typedef int (*open_call)(const char *, int, ...);
typedef ssize_t (*write_call)(int, const void *, size_t);
typedef ssize_t (*writev_call)(int, const struct iovec *, int);
typedef ssize_t (*pwrite_call)(int, const void *, size_t, off64_t);
typedef int (*truncate_call)(int, off64_t);
typedef int (*sync_call)(int);

static int real_open(const char *path, int flags, int mode) {
    REAL("open", open_call);
    return real(path, flags, mode);
}

static ssize_t real_write(int fd, const void *bytes, size_t count) {
    REAL("write", write_call);
    return real(fd, bytes, count);
}

static int is_below(const char *path) {
    const char *folder = getenv("FAULTY_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && strncmp(path, folder, length) == 0 && path[length] == '/';
}

/* The path of a descriptor of this thread, if it is below the folder. */
static int path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/thread-self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Reads the control file anew if it was changed. */
static int read_control(void) {
    const char *control = getenv("FAULTY_CONTROL");
    struct stat about;
    if (!control || stat(control, &about) != 0) return 0;
    if (about.st_ino == inode && about.st_mtim.tv_sec == changed.tv_sec
        && about.st_mtim.tv_nsec == changed.tv_nsec)
        return 1;
    inode = about.st_ino;
    changed = about.st_mtim;
    memset(codes, 0, sizeof codes);
    char text[512];
    int fd = real_open(control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char name[16];
        int code;
        long count;
        if (sscanf(line, "%15s %d %ld", name, &code, &count) != 3) continue;
        for (int kind = 0; kind < KINDS; kind++)
            if (strcmp(name, names[kind]) == 0) codes[kind] = code, passes[kind] = count;
    }
    return 1;
}

/* The error with which a call of this kind is to fail, or 0. */
static int fault(enum kind kind) {
    int code = 0;
    pthread_mutex_lock(&lock);
    if (read_control() && codes[kind] && passes[kind]-- <= 0) code = codes[kind], passes[kind] = 0;
    pthread_mutex_unlock(&lock);
    return code;
}

static int fault_of(int fd, enum kind kind) {
    char path[PATH_MAX];
    const char *control = getenv("FAULTY_CONTROL");
    struct stat about;
    if (!control || stat(control, &about) != 0 || !path_of(fd, path)) return 0;
    return fault(kind);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    int saved = errno, code = fault_of(fd, WRITE);
    if (!code && (code = fault_of(fd, TEAR))) real_write(fd, bytes, count / 2);
    if (code) return errno = code, -1;
    errno = saved;
    return real_write(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL("writev", writev_call);
    int code = fault_of(fd, WRITE);
    return code ? (errno = code, -1) : real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL("pwrite64", pwrite_call);
    int code = fault_of(fd, WRITE);
    return code ? (errno = code, -1) : real(fd, bytes, count, at);
}

int ftruncate64(int fd, off64_t length) {
    REAL("ftruncate64", truncate_call);
    int code = fault_of(fd, TRUNCATE);
    return code ? (errno = code, -1) : real(fd, length);
}

/* Notes how much of a file the disk has. A journal that was begun is longer than what is written
 * in it, so there it is the place where writing is; one that goes on is written at its end, and
 * where nothing was written all is there. */
static void note(int fd) {
    const char *synced = getenv("FAULTY_SYNCED");
    char path[PATH_MAX], line[PATH_MAX + 32];
    struct stat about;
    if (!synced || !path_of(fd, path) || fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) return;
    long long bytes = lseek(fd, 0, SEEK_CUR);
    if (bytes <= 0 || fcntl(fd, F_GETFL) & O_APPEND) bytes = about.st_size;
    int length = snprintf(line, sizeof line, "%lld %s\n", bytes, path);
    int to = real_open(synced, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (to < 0) return;
    real_write(to, line, length);
    close(to);
}

static int sync_with(sync_call real, int fd) {
    int code = fault_of(fd, SYNC);
    if (code) return errno = code, -1;
    int result = real(fd);
    if (result == 0) note(fd);
    return result;
}

int fsync(int fd) {
    REAL("fsync", sync_call);
    return sync_with(real, fd);
}

int fdatasync(int fd) {
    REAL("fdatasync", sync_call);
    return sync_with(real, fd);
}

static int open_with(const char *path, int flags, int mode) {
    if (is_below(path)) {
        int code = fault(OPEN);
        if (code) return errno = code, -1;
    }
    return real_open(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    return open_with(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    return open_with(path, flags | O_LARGEFILE, mode);
}
