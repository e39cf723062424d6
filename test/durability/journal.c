// Preloaded into a daemon: writes down, in their order, each write to its database and WAL, each sync of them that is done, and each
// datagram before it leaves. What is on the disk for sure at any moment follows from that alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  const char *file = getenv("JOURNAL");
  // For this process alone, not for git.
  unsetenv("LD_PRELOAD");
  if (file) journal = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* 'd' the database, 'w' its WAL, 0 anything else. */
static char which(int fd) {
  char link[32], path[PATH_MAX];
  if (journal < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  const char *name = strrchr(path, '/');
  if (!name) return 0;
  return strcmp(name, "/rackseed.db") == 0 ? 'd' : strcmp(name, "/rackseed.db-wal") == 0 ? 'w' : 0;
}

/* kind, file, offset, length, bytes; in the machine's own byte order. */
static void put(char kind, char file, uint64_t offset, const void *bytes, uint32_t length) {
  char head[14] = {kind, file};
  memcpy(head + 2, &offset, 8);
  memcpy(head + 10, &length, 4);
  struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, length}};
  pthread_mutex_lock(&lock);
  if (writev(journal, parts, 2) != (ssize_t)(sizeof head + length)) abort();
  pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
  ssize_t done = REAL(pwrite64)(fd, bytes, n, at);
  char file = which(fd);
  if (file && done > 0) put('W', file, at, bytes, done);
  return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return pwrite64(fd, bytes, n, at); }

ssize_t write(int fd, const void *bytes, size_t n) {
  char file = which(fd);
  off_t at = file ? lseek(fd, 0, SEEK_CUR) : 0;
  ssize_t done = REAL(write)(fd, bytes, n);
  if (file && done > 0) put('W', file, at, bytes, done);
  return done;
}

int ftruncate64(int fd, off64_t n) {
  int failed = REAL(ftruncate64)(fd, n);
  char file = which(fd);
  if (file && !failed) put('T', file, n, NULL, 0);
  return failed;
}

int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }

int fdatasync(int fd) {
  int failed = REAL(fdatasync)(fd);
  char file = which(fd);
  if (file && !failed) put('S', file, 0, NULL, 0);
  return failed;
}

int fsync(int fd) {
  int failed = REAL(fsync)(fd);
  char file = which(fd);
  if (file && !failed) put('S', file, 0, NULL, 0);
  return failed;
}

/* An ACK at least has BOOTP's header and the cookie; nothing else that the daemon sends with these calls has. */
static void leaves(const struct msghdr *message) {
  unsigned char bytes[1500];
  size_t length = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++) {
    size_t n = message->msg_iov[i].iov_len;
    if (length + n > sizeof bytes) return;
    memcpy(bytes + length, message->msg_iov[i].iov_base, n);
    length += n;
  }
  if (journal >= 0 && length > 240 && bytes[0] == 2 && memcmp(bytes + 236, "\x63\x82\x53\x63", 4) == 0) put('A', 0, 0, bytes, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  leaves(message);
  return REAL(sendmsg)(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  for (unsigned i = 0; i < count; i++) leaves(&messages[i].msg_hdr);
  return REAL(sendmmsg)(fd, messages, count, flags);
}

ssize_t sendto(int fd, const void *bytes, size_t n, int flags, const struct sockaddr *to, socklen_t tolen) {
  struct iovec part = {(void *)bytes, n};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  leaves(&message);
  return REAL(sendto)(fd, bytes, n, flags, to, tolen);
}

/* Raw system calls, as libuv makes some. Six words are always passed on; more are never used. */
long syscall(long number, ...) {
  static long (*real)(long, ...);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  va_list rest;
  long a[6];
  va_start(rest, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
  va_end(rest);
#ifdef __NR_sendmmsg
  if (number == __NR_sendmmsg) for (long i = 0; i < a[2]; i++) leaves(&((struct mmsghdr *)a[1])[i].msg_hdr);
#endif
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
