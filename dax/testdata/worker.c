/*
 * worker.c - a client process for tests, driven by lines on standard input. It
 * answers each with one line. Everything that may be held by a freeze runs in
 * threads or children that are told by number; what they have done stands in
 * the progress file, a shared array of counters that the test maps as well.
 */
#define PERMAFROST_IMPLEMENTATION
#include "permafrost.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { slots = 64, names = 16 };

static volatile uint64_t *progress; /* slots counters */
static pf_client *client;
static pf_mapping map[names];

struct job {
    char *base;
    uint64_t off, stride, pages, value;
    int slot, fd;
};

static volatile int stop[slots];

/* hammer stores 1, 2, 3 ... round robin over its pages, and says so after each. */
static void *hammer(void *arg)
{
    struct job *j = (struct job *)arg;
    for (uint64_t k = progress[j->slot] + 1; !stop[j->slot]; k++) {
        volatile uint64_t *p = (volatile uint64_t *)(j->base + j->off + (k % j->pages) * j->stride);
        *p = k;
        __atomic_store_n(&progress[j->slot], k, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* once stores one value. */
static void *once(void *arg)
{
    struct job *j = (struct job *)arg;
    *(volatile uint64_t *)(j->base + j->off) = j->value;
    __atomic_store_n(&progress[j->slot], 1, __ATOMIC_RELEASE);
    return NULL;
}

/* kernel makes the kernel store: read(2) into the mapping. */
static void *kernel(void *arg)
{
    struct job *j = (struct job *)arg;
    int64_t n = read(j->fd, j->base + j->off, 4096);
    __atomic_store_n(&progress[j->slot], n == 4096 ? 1 : (uint64_t)errno << 32 | 2, __ATOMIC_RELEASE);
    return NULL;
}

/* mapper maps a file beside other requests. */
struct maprequest { char path[1024]; uint64_t length; int slot, name; };

static void *mapper(void *arg)
{
    struct maprequest *q = (struct maprequest *)arg;
    int r = pf_map(client, q->path, 0, q->length, PF_WRITE | PF_CREATE | PF_GROW, 0600, &map[q->name]);
    __atomic_store_n(&progress[q->slot], r ? 2 : 1, __ATOMIC_RELEASE);
    return NULL;
}

static void start(void *(*f)(void *), struct job j)
{
    pthread_t t;
    struct job *p = malloc(sizeof *p);
    *p = j;
    pthread_create(&t, NULL, f, p);
    pthread_detach(t);
}

static void answer(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

static void result(int r)
{
    if (r) answer("error %d %s", errno, pf_error());
    else answer("ok");
}

static void on_bus(int sig)
{
    (void)sig;
    progress[slots - 1]++;
    syscall(SYS_exit, 0); /* this thread alone */
}

int main(int argc, char **argv)
{
    char line[4096], word[64], path[1024], flags[16];
    unsigned long long a, b, c, d;
    int n, m;
    if (argc < 2) return 2;
    int fd = open(argv[1], O_RDWR);
    progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || progress == MAP_FAILED) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%63s", word) != 1) continue;
        char *rest = line + strlen(word);
        if (!strcmp(word, "attach") && sscanf(rest, "%1023s", path) == 1) {
            client = pf_attach(path);
            result(client ? 0 : -1);
        } else if (!strcmp(word, "map") && sscanf(rest, "%d %1023s %llu %llu %15s", &n, path, &a, &b, flags) == 5) {
            unsigned f = 0;
            for (char *p = flags; *p; p++)
                f |= *p == 'w' ? PF_WRITE : *p == 'c' ? PF_CREATE : *p == 'g' ? PF_GROW : *p == 'n' ? PF_NOWAIT : 0;
            result(pf_map(client, path, a, b, f, 0644, &map[n]));
        } else if (!strcmp(word, "beside") && sscanf(rest, "%d %d %1023s %llu", &m, &n, path, &a) == 4) {
            struct maprequest *q = malloc(sizeof *q);
            pthread_t t;
            *q = (struct maprequest){.length = a, .slot = m, .name = n};
            memcpy(q->path, path, sizeof path);
            pthread_create(&t, NULL, mapper, q);
            pthread_detach(t);
            answer("ok");
        } else if (!strcmp(word, "remap") && sscanf(rest, "%d %1023s %llu", &n, path, &a) == 3) {
            result(pf_remap(client, path, &map[n], a));
        } else if (!strcmp(word, "unmap") && sscanf(rest, "%d", &n) == 1) {
            result(pf_unmap(client, &map[n]));
        } else if (!strcmp(word, "sync") && sscanf(rest, "%d %llu %llu", &n, &a, &b) == 3) {
            pf_synced s;
            if (pf_sync(client, &map[n], a, b, &s)) result(-1);
            else answer("ok %llu", (unsigned long long)s.pages);
        } else if (!strcmp(word, "stat") && sscanf(rest, "%1023s", path) == 1) {
            pf_attr t;
            if (pf_stat(client, path, &t)) result(-1);
            else answer("ok %llu", (unsigned long long)t.bytes);
        } else if (!strcmp(word, "store") && sscanf(rest, "%d %llu %llu", &n, &a, &b) == 3) {
            *(volatile uint64_t *)((char *)map[n].data + a) = b; /* in this thread: may be held */
            answer("ok");
        } else if (!strcmp(word, "once") && sscanf(rest, "%d %d %llu %llu", &m, &n, &a, &b) == 4) {
            start(once, (struct job){.base = map[n].data, .off = a, .value = b, .slot = m});
            answer("ok");
        } else if (!strcmp(word, "timed") && sscanf(rest, "%d %llu %llu %llu", &n, &a, &b, &c) == 4) {
            struct timespec t0, t1; /* first stores to c places, b bytes apart */
            clock_gettime(CLOCK_MONOTONIC, &t0);
            for (d = 0; d < c; d++) *(volatile uint64_t *)((char *)map[n].data + a + d * b) = d;
            clock_gettime(CLOCK_MONOTONIC, &t1);
            answer("ok %llu", (t1.tv_sec - t0.tv_sec) * 1000000000ull + t1.tv_nsec - t0.tv_nsec);
        } else if (!strcmp(word, "load") && sscanf(rest, "%d %llu", &n, &a) == 2) {
            answer("ok %llu", (unsigned long long)*(volatile uint64_t *)((char *)map[n].data + a));
        } else if (!strcmp(word, "hammer") && sscanf(rest, "%d %d %llu %llu %llu", &m, &n, &a, &b, &c) == 5) {
            start(hammer, (struct job){.base = map[n].data, .off = a, .stride = b, .pages = c, .slot = m});
            answer("ok");
        } else if (!strcmp(word, "alone") && sscanf(rest, "%d %d %llu %llu %llu", &m, &n, &a, &b, &c) == 5) {
            answer("ok"); /* no other thread, and no more lines read, until stopped */
            struct job j = {.base = map[n].data, .off = a, .stride = b, .pages = c, .slot = m};
            hammer(&j);
        } else if (!strcmp(word, "fork") && sscanf(rest, "%d %d %llu %llu %llu", &m, &n, &a, &b, &c) == 5) {
            pid_t pid = fork();
            if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, 0);
                alarm(120); /* ends by itself, whatever becomes of the test */
                struct job j = {.base = map[n].data, .off = a, .stride = b, .pages = c, .slot = m};
                hammer(&j);
                _exit(0);
            }
            answer("ok %d", pid);
        } else if (!strcmp(word, "stop") && sscanf(rest, "%d", &m) == 1) {
            stop[m] = 1;
            answer("ok");
        } else if (!strcmp(word, "kernel") && sscanf(rest, "%d %d %llu %1023s", &m, &n, &a, path) == 4) {
            int in = open(path, O_RDONLY);
            start(kernel, (struct job){.base = map[n].data, .off = a, .slot = m, .fd = in});
            answer(in < 0 ? "error %d open" : "ok", errno);
        } else if (!strcmp(word, "munmap") && sscanf(rest, "%d %llu %llu", &n, &a, &b) == 3) {
            result(munmap((char *)map[n].data + a, b)); /* by hand */
        } else if (!strcmp(word, "mremap") && sscanf(rest, "%d %llu %llu %llu %llu", &n, &a, &b, &c, &d) == 5) {
            /* by hand: flags c (1 may move, 2 fixed, 4 keep the old); d: fixed into a new reserved area */
            void *to = d ? mmap(NULL, d, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
            void *p = mremap((char *)map[n].data, a, b, (int)c, to);
            if (p == MAP_FAILED) answer("error %d mremap: %s", errno, strerror(errno));
            else {
                map[15] = map[n]; /* the old place */
                if (p != map[n].data) map[n].data = p;
                answer("ok %d", p != map[15].data);
            }
        } else if (!strcmp(word, "unguard") && sscanf(rest, "%d", &n) == 1) {
            result(munmap((char *)map[n].data + map[n].length, PF_PAGE)); /* makes room to grow in place */
        } else if (!strcmp(word, "private") && sscanf(rest, "%d %d", &m, &n) == 2) {
            map[m] = map[n]; /* the same bytes of the image, copy-on-write */
            unsigned long long from, to, off = 0;
            FILE *f = fopen("/proc/self/maps", "r");
            char text[512];
            while (f && fgets(text, sizeof text, f)) {
                if (sscanf(text, "%llx-%llx %*s %llx", &from, &to, &off) == 3 && from == (uintptr_t)map[n].data) break;
            }
            if (f) fclose(f);
            map[m].data = mmap(NULL, map[n].length, PROT_READ | PROT_WRITE, MAP_PRIVATE, client->image, (off_t)off);
            result(map[m].data == MAP_FAILED ? -1 : 0);
        } else if (!strcmp(word, "discard") && sscanf(rest, "%d %llu %llu", &n, &a, &b) == 3) {
            result(madvise((char *)map[n].data + a, b, MADV_DONTNEED));
        } else if (!strcmp(word, "catchbus")) {
            signal(SIGBUS, on_bus);
            answer("ok");
        } else if (!strcmp(word, "stuck") && sscanf(rest, "%d", &n) == 1) {
            /* A munmap that touches a userfaultfd of our own that nobody reads, and
             * the server's behind it: it never finishes. */
            char *area = mmap(NULL, 2 * PF_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            int u = pf_uffd_new(-1);
            uint64_t api[3] = {0xAA, 1 << 6, 0}, reg[4] = {(uint64_t)(uintptr_t)area, PF_PAGE, 1, 0};
            int r = ioctl(u, 0xC018AA3F, api) || ioctl(u, 0xC020AA00, reg);
            void *p = r ? MAP_FAILED : mremap(map[n].data, PF_PAGE, PF_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, area + PF_PAGE);
            if (p == MAP_FAILED) { answer("error %d stuck", errno); continue; }
            answer("ok");
            munmap(area, 2 * PF_PAGE); /* hangs */
        } else if (!strcmp(word, "exec")) {
            answer("ok");
            execl("/bin/sleep", "sleep", "60", (char *)NULL);
        } else if (!strcmp(word, "detach")) {
            pf_detach(client);
            answer("ok");
        } else if (!strcmp(word, "quit")) {
            answer("ok");
            return 0;
        } else {
            answer("error 0 what? %s", line);
        }
    }
    return 0;
}
