/*
 * permafrost.h - attach client for Permafrost, in one header.
 *
 * A program maps files of a Permafrost image into its own memory, zero-copy;
 * the server sees its first stores, and holds them while it is frozen.
 *
 *     #define PERMAFROST_IMPLEMENTATION      // in one .c file of the program
 *     #include "permafrost.h"
 *
 *     pf_client *c = pf_attach("/run/permafrost/attach.sock");
 *     if (!c) { fprintf(stderr, "%s\n", pf_error()); return 1; }
 *     pf_mapping m;
 *     if (pf_map(c, "/db", 0, 1 << 20, PF_WRITE | PF_CREATE | PF_GROW, 0644, &m)) ...
 *     memcpy(m.data, bytes, n);              // waits here while frozen
 *     pf_sync(c, &m, 0, 0, NULL);            // durable
 *     pf_unmap(c, &m);
 *     pf_detach(c);
 *
 * Linux, C11 or C++, pthreads (link with -pthread); compile the file that holds
 * the implementation with -D_GNU_SOURCE. Every function may be
 * called from any thread; requests of several threads run side by side.
 * Functions that return int give 0, or -1 with errno set and a sentence in
 * pf_error() that says what to do.
 *
 * Rules:
 *  - Do not munmap, mremap or unregister by hand what pf_map gave; use pf_unmap
 *    and pf_remap. (munmap and mremap are followed by the server all the same.
 *    A mapping grown in place would show parts of the image that are not the
 *    file's, and stores there would be held by nobody; a guard page behind each
 *    mapping prevents it.)
 *  - A forked child keeps the mappings, and its stores are held like its
 *    parent's. It must not use the parent's pf_client; it may attach itself.
 *  - Mappings end with execve.
 *  - While the file system is frozen a thread that stores to a page waits in the
 *    kernel. Signals are handled and the process can be killed.
 *  - If the server ends, stores to clean pages wait for a new one. It takes the
 *    mappings back by itself; the client connects again at its next call. To
 *    keep it so, the client holds a copy of its userfaultfd: do not close file
 *    descriptors that are not yours.
 *  - A store that can never be carried out ends in SIGBUS.
 *
 * The protocol is described in docs/ATTACH.md.
 */
#ifndef PERMAFROST_H
#define PERMAFROST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PF_PAGE 4096u

/* Flags of pf_map. */
#define PF_WRITE 1u  /* stores are meant: allocate the range, track and hold them */
#define PF_CREATE 2u /* make the file if there is none */
#define PF_GROW 4u   /* make the file long enough */
#define PF_NOWAIT 8u /* while frozen fail with EBUSY instead of waiting for the thaw */

typedef struct pf_client pf_client;

typedef struct pf_mapping {
    void *data;      /* the memory; NULL once unmapped */
    size_t length;   /* bytes, a multiple of PF_PAGE */
    uint64_t id;     /* the server's name for it */
    uint64_t ino;    /* inode number of the file */
    uint64_t offset; /* bytes in the file */
    unsigned flags;
} pf_mapping;

typedef struct pf_synced {
    uint64_t generation, pages, bytes, nanoseconds;
} pf_synced;

typedef struct pf_attr {
    uint64_t ino, bytes, blocks, generation;
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint32_t mode, links, uid, gid;
} pf_attr;

/* pf_attach connects to the server's attach socket; NULL if refused. */
pf_client *pf_attach(const char *socket_path);

/* pf_detach ends the connection. Unmap first: what is still mapped stays mapped
 * and held until the process ends. */
void pf_detach(pf_client *c);

/* pf_map maps length bytes (rounded up to a page) at offset of a file. When it
 * returns 0, stores to m->data are tracked. */
int pf_map(pf_client *c, const char *path, uint64_t offset, uint64_t length,
           unsigned flags, unsigned mode, pf_mapping *m);

/* pf_unmap ends a mapping; what was stored is made durable. Never waits for a
 * thaw. */
int pf_unmap(pf_client *c, pf_mapping *m);

/* pf_remap maps length bytes of the same file anew and ends the old mapping. */
int pf_remap(pf_client *c, const char *path, pf_mapping *m, uint64_t length);

/* pf_sync makes length bytes at offset of the mapping durable; length 0: to its
 * end. out may be NULL. */
int pf_sync(pf_client *c, const pf_mapping *m, uint64_t offset, uint64_t length, pf_synced *out);

/* pf_stat looks a file up by path. Never waits for a thaw. */
int pf_stat(pf_client *c, const char *path, pf_attr *out);

/* pf_error is this thread's last error, as a sentence. */
const char *pf_error(void);

#ifdef __cplusplus
}
#endif
#endif /* PERMAFROST_H */

#ifdef PERMAFROST_IMPLEMENTATION
#ifndef PERMAFROST_IMPLEMENTED
#define PERMAFROST_IMPLEMENTED

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS) || !defined(SOCK_CLOEXEC)
#error "compile this file with -D_GNU_SOURCE"
#endif
#ifndef __BYTE_ORDER__
#error "the compiler does not tell its byte order"
#elif __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this client is for little-endian machines"
#endif

enum {
    pf_header = 16, pf_frame_max = 65536, pf_magic = 0x58444650, pf_version = 1,
    pf_t_hello = 1, pf_t_welcome = 2, pf_t_uffd = 3, pf_t_map = 4, pf_t_extents = 5, pf_t_mapped = 6,
    pf_t_unmap = 7, pf_t_sync = 8, pf_t_synced = 9, pf_t_stat = 10, pf_t_attr = 11, pf_t_ok = 12,
    pf_t_error = 13, pf_t_bye = 14,
    pf_more = 1, pf_want_device = 1, pf_resumed = 2
};

/* One received frame. The body is followed by a zero byte. */
typedef struct pf_frame {
    struct pf_frame *next;
    uint32_t length; /* of the body */
    uint16_t type, flags;
    uint32_t seq;
    int fds[2]; /* -1: none */
    unsigned char body[];
} pf_frame;

/* A request under way. */
typedef struct pf_call {
    struct pf_call *next;
    uint32_t seq;
    pf_frame *first, *last; /* its answer so far */
    int complete;
} pf_call;

struct pf_client {
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    pid_t pid;              /* who attached */
    int uffd;               /* our copy: keeps stores waiting if the server ends */
    pthread_mutex_t send_mu;
    pthread_mutex_t mu;     /* guards what follows */
    pthread_cond_t changed;
    int sock;               /* -1: not connected */
    int broken;             /* sock failed; closed when nobody uses it any more */
    int users;              /* calls that use sock */
    int image;
    unsigned char id[16];
    uint32_t seq;
    int reading;            /* a thread is in recvmsg for all */
    int connecting;
    pf_call *calls;
};

static __thread char pf_text[512];

const char *pf_error(void) { return pf_text; }

static int pf_fail(int err, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(pf_text, sizeof pf_text, format, ap);
    va_end(ap);
    errno = err;
    return -1;
}

static void pf_free_frames(pf_frame *f)
{
    while (f) {
        pf_frame *next = f->next;
        for (int i = 0; i < 2; i++)
            if (f->fds[i] >= 0) close(f->fds[i]);
        free(f);
        f = next;
    }
}

/* pf_send writes one frame, with a descriptor beside it if fd is not -1. */
static int pf_send(int sock, uint16_t type, uint32_t seq, const void *fixed, uint32_t nfixed,
                   const void *tail, uint32_t ntail, int fd)
{
    unsigned char head[pf_header];
    uint32_t magic = pf_magic, size = pf_header + nfixed + ntail;
    uint16_t flags = 0;
    if (ntail > pf_frame_max - pf_header - nfixed)
        return pf_fail(ENAMETOOLONG, "a request of %u bytes is too long", size);
    memcpy(head, &magic, 4); memcpy(head + 4, &size, 4); memcpy(head + 8, &type, 2);
    memcpy(head + 10, &flags, 2); memcpy(head + 12, &seq, 4);
    struct iovec iov[3] = {{head, pf_header}, {(void *)fixed, nfixed}, {(void *)tail, ntail}};
    union { char b[CMSG_SPACE(sizeof(int))]; struct cmsghdr h; } ctl;
    struct msghdr msg;
    memset(&msg, 0, sizeof msg);
    msg.msg_iov = iov;
    msg.msg_iovlen = 3;
    if (fd >= 0) {
        memset(&ctl, 0, sizeof ctl);
        msg.msg_control = ctl.b;
        msg.msg_controllen = sizeof ctl.b;
        struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
        h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &fd, sizeof fd);
    }
    for (size_t left = size; left > 0;) {
        ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return pf_fail(errno, "send to the server: %s", strerror(errno));
        left -= (size_t)n;
        msg.msg_control = NULL; /* it went with the first byte */
        msg.msg_controllen = 0;
        for (size_t i = 0; i < 3 && n > 0; i++) {
            size_t k = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;
            iov[i].iov_base = (char *)iov[i].iov_base + k;
            iov[i].iov_len -= k;
            n -= (ssize_t)k;
        }
    }
    return 0;
}

/* pf_fill reads exactly n bytes and keeps descriptors that come with them. */
static int pf_fill(int sock, void *to, size_t n, int fds[2])
{
    char *p = (char *)to;
    while (n > 0) {
        struct iovec iov = {p, n};
        union { char b[CMSG_SPACE(4 * sizeof(int))]; struct cmsghdr h; } ctl;
        struct msghdr msg;
        memset(&msg, 0, sizeof msg);
        msg.msg_iov = &iov;
        msg.msg_iovlen = 1;
        msg.msg_control = ctl.b;
        msg.msg_controllen = sizeof ctl.b;
        ssize_t got = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return pf_fail(errno, "receive from the server: %s", strerror(errno));
        if (got == 0) return pf_fail(ECONNRESET, "the server closed the connection");
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&msg); h; h = CMSG_NXTHDR(&msg, h)) {
            if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
            size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < count; i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
                if (fds[0] < 0) fds[0] = fd;
                else if (fds[1] < 0) fds[1] = fd;
                else close(fd);
            }
        }
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

static pf_frame *pf_receive(int sock)
{
    unsigned char head[pf_header];
    int fds[2] = {-1, -1};
    uint32_t magic = 0, size = 0;
    pf_frame *f = NULL;
    if (pf_fill(sock, head, sizeof head, fds)) goto bad;
    memcpy(&magic, head, 4);
    memcpy(&size, head + 4, 4);
    if (magic != pf_magic || size < pf_header || size > pf_frame_max) {
        pf_fail(EPROTO, "the server does not speak the attach protocol");
        goto bad;
    }
    f = (pf_frame *)calloc(1, sizeof *f + size - pf_header + 1);
    if (!f) { pf_fail(ENOMEM, "out of memory"); goto bad; }
    f->length = size - pf_header;
    memcpy(&f->type, head + 8, 2);
    memcpy(&f->flags, head + 10, 2);
    memcpy(&f->seq, head + 12, 4);
    if (pf_fill(sock, f->body, f->length, fds)) goto bad;
    f->fds[0] = fds[0];
    f->fds[1] = fds[1];
    return f;
bad:
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0) close(fds[i]);
    free(f);
    return NULL;
}

/* pf_check turns an error frame into an error, and any other type than the one
 * wanted as well. */
static int pf_check(const pf_frame *f, uint16_t type, uint32_t least)
{
    if (f->type == pf_t_error && f->length >= 8) {
        uint32_t err;
        memcpy(&err, f->body, 4);
        return pf_fail(err ? (int)err : EIO, "%s", (const char *)f->body + 8);
    }
    if (f->type != type || f->length < least)
        return pf_fail(EPROTO, "unexpected answer of type %u from the server", f->type);
    return 0;
}

static int pf_uffd_new(int device)
{
    int flags = O_CLOEXEC | O_NONBLOCK;
    if (device >= 0) return ioctl(device, 0xAA00 /* USERFAULTFD_IOC_NEW */, flags);
    return (int)syscall(SYS_userfaultfd, flags); /* full: kernel-mode faults too */
}

/* pf_greet connects and says hello: a socket, or -1. */
static int pf_greet(pf_client *c, int *image, uint32_t *flags)
{
    struct sockaddr_un a;
    struct timeval limit = {15, 0};
    unsigned char hello[24];
    uint32_t version = pf_version, want = 0;
    int fresh = -1, sent;
    pf_frame *f = NULL;
    memset(&a, 0, sizeof a);
    a.sun_family = AF_UNIX;
    memcpy(a.sun_path, c->path, sizeof a.sun_path);
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0) return pf_fail(errno, "socket: %s", strerror(errno));
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(sock, (struct sockaddr *)&a, sizeof a)) {
        pf_fail(errno, "connect to %s: %s", c->path, strerror(errno));
        goto bad;
    }
    if (c->uffd < 0 && (fresh = pf_uffd_new(-1)) < 0) want = pf_want_device;
    memcpy(hello, &version, 4);
    memcpy(hello + 4, &want, 4);
    memcpy(hello + 8, c->id, 16);
    /* If the hello cannot be sent, the server may have said why before it closed. */
    sent = pf_send(sock, pf_t_hello, 1, hello, sizeof hello, NULL, 0, -1);
    f = pf_receive(sock);
    if (!f || pf_check(f, pf_t_welcome, 40)) goto bad;
    if (sent || f->fds[0] < 0) { pf_fail(EPROTO, "the server sent no image"); goto bad; }
    if (c->uffd < 0 && fresh < 0 && (f->fds[1] < 0 || (fresh = pf_uffd_new(f->fds[1])) < 0)) {
        pf_fail(errno, "cannot make a userfaultfd: %s", strerror(errno));
        goto bad;
    }
    if (c->uffd < 0) c->uffd = fresh;
    memcpy(flags, f->body + 4, 4);
    memcpy(c->id, f->body + 8, 16);
    *image = f->fds[0];
    f->fds[0] = -1;
    pf_free_frames(f);
    limit.tv_sec = 0;
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return sock;
bad:
    if (fresh >= 0 && fresh != c->uffd) close(fresh);
    pf_free_frames(f);
    close(sock);
    return -1;
}

static void pf_free(pf_client *c)
{
    if (c->sock >= 0) close(c->sock);
    if (c->image >= 0) close(c->image);
    if (c->uffd >= 0) close(c->uffd);
    pthread_mutex_destroy(&c->mu);
    pthread_mutex_destroy(&c->send_mu);
    pthread_cond_destroy(&c->changed);
    free(c);
}

pf_client *pf_attach(const char *socket_path)
{
    uint32_t flags, number;
    if (strlen(socket_path) >= sizeof(((pf_client *)0)->path)) {
        pf_fail(ENAMETOOLONG, "the socket's path is too long");
        return NULL;
    }
    pf_client *c = (pf_client *)calloc(1, sizeof *c);
    if (!c) { pf_fail(ENOMEM, "out of memory"); return NULL; }
    strcpy(c->path, socket_path);
    c->pid = getpid();
    c->uffd = c->sock = c->image = -1;
    pthread_mutex_init(&c->mu, NULL);
    pthread_mutex_init(&c->send_mu, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->sock = pf_greet(c, &c->image, &flags);
    if (c->sock >= 0) {
        number = (uint32_t)c->uffd;
        pf_frame *f = NULL;
        if (!pf_send(c->sock, pf_t_uffd, 2, &number, 4, NULL, 0, c->uffd) &&
            (f = pf_receive(c->sock)) && !pf_check(f, pf_t_ok, 0)) {
            pf_free_frames(f);
            c->seq = 2;
            return c;
        }
        pf_free_frames(f);
    }
    int err = errno;
    pf_free(c);
    errno = err;
    return NULL;
}

void pf_detach(pf_client *c)
{
    if (c->sock >= 0 && c->pid == getpid()) pf_send(c->sock, pf_t_bye, 0, NULL, 0, NULL, 0, -1);
    pf_free(c);
}

/* pf_connect makes a new connection if there is none; c->mu is held. */
static int pf_connect(pf_client *c)
{
    int image = -1, sock, err;
    uint32_t flags = 0;
    while (c->connecting || (c->broken && c->users > 0)) pthread_cond_wait(&c->changed, &c->mu);
    if (c->broken) {
        close(c->sock);
        c->sock = -1;
        c->broken = 0;
    }
    if (c->sock >= 0) return 0;
    c->connecting = 1;
    pthread_mutex_unlock(&c->mu);
    sock = pf_greet(c, &image, &flags);
    if (sock >= 0 && !(flags & pf_resumed)) {
        close(sock);
        close(image);
        sock = pf_fail(ESTALE, "the server does not know this client any more: unmap, and attach anew");
    }
    err = errno;
    pthread_mutex_lock(&c->mu);
    c->connecting = 0;
    if (sock >= 0) {
        close(c->image); /* mappings made from it stay */
        c->image = image;
        c->sock = sock;
    }
    pthread_cond_broadcast(&c->changed);
    errno = err;
    return sock >= 0 ? 0 : -1;
}

/* pf_drop gives a failed connection up, so that all who use it notice; c->mu is
 * held. */
static void pf_drop(pf_client *c)
{
    c->broken = 1;
    shutdown(c->sock, SHUT_RDWR);
    pthread_cond_broadcast(&c->changed);
}

/* pf_await receives frames, for all calls, until ours is complete. One thread
 * at a time receives; c->mu is held. */
static int pf_await(pf_client *c, pf_call *call)
{
    while (!call->complete) {
        if (c->broken) return pf_fail(ECONNRESET, "the connection to the server ended");
        if (c->reading) {
            pthread_cond_wait(&c->changed, &c->mu);
            continue;
        }
        c->reading = 1;
        int sock = c->sock;
        pthread_mutex_unlock(&c->mu);
        pf_frame *f = pf_receive(sock);
        pthread_mutex_lock(&c->mu);
        c->reading = 0;
        if (!f) {
            pf_drop(c);
            continue;
        }
        pf_call *to = c->calls;
        while (to && to->seq != f->seq) to = to->next;
        if (!to) pf_free_frames(f);
        else {
            if (to->last) to->last->next = f; else to->first = f;
            to->last = f;
            to->complete = !(f->flags & pf_more);
        }
        pthread_cond_broadcast(&c->changed);
    }
    return 0;
}

/* pf_ask sends a request and gives its answer, over a new connection if the old
 * one has ended. The caller frees the frames. */
static pf_frame *pf_ask(pf_client *c, uint16_t type, const void *fixed, uint32_t nfixed, const char *tail)
{
    if (c->pid != getpid()) {
        pf_fail(EPERM, "a forked child must attach by itself");
        return NULL;
    }
    pf_call call;
    int failed = 1;
    pthread_mutex_lock(&c->mu);
    for (int attempt = 0; attempt < 2 && failed; attempt++) {
        if (pf_connect(c)) break;
        memset(&call, 0, sizeof call);
        call.seq = ++c->seq;
        call.next = c->calls;
        c->calls = &call;
        int sock = c->sock;
        c->users++;
        pthread_mutex_unlock(&c->mu);
        pthread_mutex_lock(&c->send_mu);
        failed = pf_send(sock, type, call.seq, fixed, nfixed, tail, tail ? (uint32_t)strlen(tail) : 0, -1);
        pthread_mutex_unlock(&c->send_mu);
        int err = errno;
        pthread_mutex_lock(&c->mu);
        if (failed && err != ENAMETOOLONG) pf_drop(c);
        else if (!failed) failed = pf_await(c, &call);
        c->users--;
        pthread_cond_broadcast(&c->changed);
        pf_call **p = &c->calls;
        while (*p != &call) p = &(*p)->next;
        *p = call.next;
        if (failed) {
            pf_free_frames(call.first);
            if (err == ENAMETOOLONG) break;
        }
    }
    pthread_mutex_unlock(&c->mu);
    return failed ? NULL : call.first;
}

static int pf_simple(pf_client *c, uint16_t type, const void *fixed, uint32_t n, const char *tail,
                     uint16_t answer, void *out, uint32_t nout)
{
    pf_frame *f = pf_ask(c, type, fixed, n, tail);
    if (!f) return -1;
    int r = pf_check(f, answer, nout);
    if (!r && out) memcpy(out, f->body, nout);
    int err = errno;
    pf_free_frames(f);
    errno = err;
    return r;
}

/* pf_place maps the pieces of all extents frames side by side. */
static int pf_place(pf_client *c, const pf_frame *f, pf_mapping *m)
{
    int prot = PROT_READ | (m->flags & PF_WRITE ? PROT_WRITE : 0);
    pthread_mutex_lock(&c->mu);
    int image = dup(c->image);
    pthread_mutex_unlock(&c->mu);
    if (image < 0) return pf_fail(errno, "dup: %s", strerror(errno));
    char *base = (char *)mmap(NULL, m->length + PF_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int r = 0;
    if (base == MAP_FAILED) r = pf_fail(errno, "reserve %zu bytes of addresses: %s", m->length, strerror(errno));
    else m->data = base;
    if (!r && !(m->flags & PF_WRITE) && mprotect(base, m->length, PROT_READ)) r = pf_fail(errno, "mprotect: %s", strerror(errno));
    for (; !r && f; f = f->next) {
        uint32_t count = 0;
        if ((r = pf_check(f, pf_t_extents, 48))) break;
        memcpy(&count, f->body + 40, 4);
        if (f->length != 48 + 24ull * count) { r = pf_fail(EPROTO, "a malformed answer from the server"); break; }
        for (uint32_t i = 0; !r && i < count; i++) {
            uint64_t p[3]; /* file offset, image offset, length */
            memcpy(p, f->body + 48 + 24 * i, 24);
            if (p[0] < m->offset || p[0] - m->offset > m->length || p[2] > m->length - (p[0] - m->offset))
                r = pf_fail(EPROTO, "the server gave a piece outside the mapping");
            else if (mmap(base + (p[0] - m->offset), p[2], prot, MAP_SHARED | MAP_FIXED, image, (off_t)p[1]) == MAP_FAILED)
                r = pf_fail(errno, "map %llu bytes of the image: %s", (unsigned long long)p[2], strerror(errno));
        }
    }
    int err = errno;
    close(image);
    errno = err;
    return r;
}

int pf_map(pf_client *c, const char *path, uint64_t offset, uint64_t length,
           unsigned flags, unsigned mode, pf_mapping *m)
{
    unsigned char q[32];
    uint32_t fl = flags, mo = mode;
    uint64_t zero = 0;
    memset(m, 0, sizeof *m);
    length = (length + PF_PAGE - 1) & ~(uint64_t)(PF_PAGE - 1);
    memcpy(q, &fl, 4); memcpy(q + 4, &mo, 4); memcpy(q + 8, &zero, 8);
    memcpy(q + 16, &offset, 8); memcpy(q + 24, &length, 8);
    pf_frame *f = pf_ask(c, pf_t_map, q, sizeof q, path);
    if (!f) return -1;
    int r = pf_check(f, pf_t_extents, 48);
    if (!r) {
        memcpy(&m->id, f->body, 8);
        memcpy(&m->ino, f->body + 8, 8);
        m->length = length;
        m->offset = offset;
        m->flags = flags;
        r = pf_place(c, f, m);
        uint64_t mapped[2] = {m->id, (uint64_t)(uintptr_t)m->data};
        if (!r) r = pf_simple(c, pf_t_mapped, mapped, sizeof mapped, NULL, pf_t_ok, NULL, 0);
        if (r) { /* give it up, and keep the first error */
            int err = errno;
            char text[sizeof pf_text];
            memcpy(text, pf_text, sizeof text);
            pf_unmap(c, m);
            memcpy(pf_text, text, sizeof text);
            errno = err;
        }
    }
    int err = errno;
    pf_free_frames(f);
    errno = err;
    return r;
}

int pf_unmap(pf_client *c, pf_mapping *m)
{
    if (m->data && munmap(m->data, m->length + PF_PAGE)) return pf_fail(errno, "munmap: %s", strerror(errno));
    m->data = NULL;
    uint64_t id = m->id;
    int r = pf_simple(c, pf_t_unmap, &id, sizeof id, NULL, pf_t_ok, NULL, 0);
    return r && errno == EBADF ? 0 : r; /* EBADF: it has seen the munmap and forgotten */
}

int pf_remap(pf_client *c, const char *path, pf_mapping *m, uint64_t length)
{
    pf_mapping n;
    if (pf_map(c, path, m->offset, length, m->flags & ~PF_CREATE, 0, &n)) return -1;
    int r = pf_unmap(c, m);
    *m = n;
    return r;
}

int pf_sync(pf_client *c, const pf_mapping *m, uint64_t offset, uint64_t length, pf_synced *out)
{
    uint64_t q[3] = {m->id, offset, length};
    pf_synced s;
    return pf_simple(c, pf_t_sync, q, sizeof q, NULL, pf_t_synced, out ? out : &s, sizeof s);
}

int pf_stat(pf_client *c, const char *path, pf_attr *out)
{
    uint64_t ino = 0;
    return pf_simple(c, pf_t_stat, &ino, sizeof ino, path, pf_t_attr, out, sizeof *out);
}

#endif /* PERMAFROST_IMPLEMENTED */
#endif /* PERMAFROST_IMPLEMENTATION */
