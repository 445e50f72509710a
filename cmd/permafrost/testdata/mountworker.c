// A program that knows nothing of Permafrost, for the tests of the mount: N
// threads each do one thing to a file of their own, FILE.0, FILE.1, ...
//
//   mountworker OP FILE N PROGRESS [signals]
//
// It says "ready" when all is prepared, waits for a line on its standard input, and says
// "done ok=.. eintr=.. eagain=.. failed=.. errno=.." when all threads are done. Threads
// that go on until told otherwise end with standard input. PROGRESS is a file of
// N 64-bit counters, on another file system: what each thread has finished.
//
// With "signals" a handler without SA_RESTART meets a SIGALRM every 2 ms and
// storms of SIGURG at each thread, as a Go program's scheduler sends them.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { SIZE = 64 << 10, PAGE = 4096, PAGES = SIZE / PAGE };

static const char *op, *file;
static int threads;
static volatile uint64_t *progress;
static pthread_barrier_t ready, go;
static atomic_int stop, ok, eintr, eagain, failed, last, finished;
static char block[SIZE];

static void die(const char *what) {
	dprintf(1, "failed %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int is(const char *name) { return strcmp(op, name) == 0; }

static void count(long r) {
	if (r >= 0)
		ok++;
	else if (errno == EINTR)
		eintr++;
	else if (errno == EAGAIN)
		eagain++;
	else {
		failed++;
		last = errno;
	}
}

// store writes a growing number to one page after the other.
static void store(volatile uint64_t *p, int i) {
	for (uint64_t n = 1; !stop; n++) {
		p[n % PAGES * (PAGE / 8)] = n;
		progress[i] = n;
		if (n % PAGES == 0)
			usleep(500); // others need the processors too
	}
}

// resize changes the length of a file behind what its neighbour stores to, and its mode.
static void resize(int fd, int i) {
	for (uint64_t n = 1; !stop; n++) {
		if (ftruncate(fd, SIZE + n % 2 * SIZE) || fchmod(fd, 0600 + n % 2 * 040)) {
			count(-1);
			return;
		}
		progress[i] = n;
		usleep(500);
	}
}

static void *run(void *arg) {
	int i = (int)(intptr_t)arg, fd = -1;
	int mapped = is("store") || is("dirty") || (is("resize") && i % 2 == 0);
	char name[4096];
	volatile uint64_t *p = NULL;
	snprintf(name, sizeof name, "%s.%d", file, is("resize") ? i / 2 : i);
	if (!is("create") && !is("mkdir") && !is("unlink")) {
		fd = open(name, O_RDWR | O_CREAT, 0644);
		if (fd < 0)
			die(name);
	}
	if (mapped || is("truncate")) {
		if (ftruncate(fd, SIZE))
			die("ftruncate");
	}
	if (mapped) {
		p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			die("mmap");
		for (int page = 0; page < PAGES; page++)
			memset((char *)p + page * PAGE, is("dirty") ? 1 + (i + page) % 255 : 0, PAGE);
	}
	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&go);
	if (is("store"))
		store(p, i);
	else if (is("resize"))
		p ? store(p, i) : resize(fd, i);
	else if (is("dirty"))
		while (!stop)
			usleep(1000);
	else if (is("write"))
		count(pwrite(fd, block, SIZE, 0));
	else if (is("part"))
		count(pwrite(fd, block, 100, 10));
	else if (is("create"))
		count(open(name, O_RDWR | O_CREAT | O_EXCL, 0644));
	else if (is("mkdir"))
		count(mkdir(name, 0755));
	else if (is("unlink"))
		count(unlink(name));
	else if (is("truncate"))
		count(ftruncate(fd, PAGE));
	else if (is("fsync"))
		count(fsync(fd));
	else
		die("no such operation");
	progress[i]++;
	finished++;
	return NULL;
}

static void handler(int sig) { (void)sig; }

int main(int argc, char **argv) {
	if (argc < 5)
		return 2;
	op = argv[1], file = argv[2], threads = atoi(argv[3]);
	int fd = open(argv[4], O_RDWR | O_CREAT, 0644);
	if (fd < 0 || ftruncate(fd, threads * 8))
		die(argv[4]);
	progress = mmap(NULL, threads * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (progress == MAP_FAILED)
		die("mmap of the progress");
	memset(block, 'w', sizeof block);
	int signals = argc > 5;
	pthread_barrier_init(&ready, NULL, threads + 1);
	pthread_barrier_init(&go, NULL, threads + 1);
	pthread_t *t = calloc(threads, sizeof *t);
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (int i = 0; i < threads; i++)
		if ((errno = pthread_create(&t[i], &small, run, (void *)(intptr_t)i)))
			die("pthread_create");
	pthread_barrier_wait(&ready);
	dprintf(1, "ready\n");
	char c;
	while (read(0, &c, 1) == 1 && c != '\n')
		;
	if (signals) {
		struct sigaction sa = {.sa_handler = handler}; // no SA_RESTART
		struct itimerval every = {{0, 2000}, {0, 2000}};
		sigaction(SIGALRM, &sa, NULL);
		sigaction(SIGURG, &sa, NULL);
		setitimer(ITIMER_REAL, &every, NULL);
	}
	pthread_barrier_wait(&go);
	while (signals && finished < threads) {
		for (int i = 0; i < threads; i++)
			pthread_kill(t[i], SIGURG);
		usleep(200);
	}
	if (is("store") || is("resize") || is("dirty")) {
		while (read(0, &c, 1) == 1)
			;
		stop = 1;
	}
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	dprintf(1, "done ok=%d eintr=%d eagain=%d failed=%d errno=%d\n", ok, eintr, eagain, failed, last);
	return 0;
}
