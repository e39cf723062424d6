// Plays many TFTP clients at once: each downloads one file by RFC 1350, 2347, 2348 and 7440, checks every byte, and counts; prints one line of JSON.
//   cc -O2 -o tftp-client bench/tftp-client.c
//   ./tftp-client --server 10.80.0.1 --local 10.81.0.1 --file snponly.efi --expect /tmp/snponly.efi --count 50 --blksize 1468 --windowsize 16 --again --seconds 3
// One epoll loop in one thread: the servers need the other processor, and a loop that finds work waiting asks the kernel for no context switch.
// It spins for a while before it sleeps, as firmware does, which polls its card: otherwise its own wake-up would be half of every lock-step exchange.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"

enum { BATCH = 64, FEW = 4 };
enum { RRQ = 1, DATA = 3, ACK = 4, ERROR = 5, OACK = 6 };
enum { IDLE, ASKING, RECEIVING, DONE, FAILED };

struct client {
  int fd, state;
  uint32_t blksize, window;       // as granted
  int64_t next, strayed;          // the block that is awaited, unwrapped; the last one out of sequence, 0 when none since the last ACK
  uint32_t in_window;             // in sequence since the last ACK
  double began, heard;            // of this download; when something new came, or was last asked for again
  uint64_t left;                  // downloads still to begin
};

static struct client *clients;
static uint32_t count = 1, blksize = 512, windowsize = 1, first_address;
static struct sockaddr_in server = {.sin_family = AF_INET};
static const char *file;
static const uint8_t *expected;
static size_t size;
static int epoll, again, tsize, watched;
static double timeout = 5, measure_from, ends;
static uint64_t bytes, finished, failures, resends, duplicates, gaps, strays, acks, granted_blksize, granted_window;
static uint32_t running;
static char first_error[256];
static float *times;
static size_t time_count, time_room;
static uint8_t *room[BATCH];
static size_t space;             // of one of them: no larger than needed, so that all stay in the processor's cache
static struct iovec iov[BATCH];
static struct mmsghdr msgs[BATCH];

// ---- The server's processor time: of the process with its threads (also those that ended), and of its children, also those that it never waits for.

static struct { int pid; double seconds; } children[65536];
static int child_count;

static double cpu_of(int pid) {
  char path[64];
  unsigned long t[4] = {0};
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  if (fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu", &t[0], &t[1], &t[2], &t[3]) != 4) die("tftp-client: stat");
  fclose(f);
  return (t[0] + t[1] + t[2] + t[3]) / (double)sysconf(_SC_CLK_TCK);
}

/// In nanoseconds, which matters for what lives less than a second; it has one thread.
static double cpu_of_child(int pid) {
  char path[64];
  unsigned long long ns = 0;
  snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  if (fscanf(f, "%llu", &ns) != 1) ns = 0;
  fclose(f);
  return ns / 1e9;
}

/// Called before the last ACK of each download as well: tftpd-hpa forks for each, and ignores SIGCHLD, so that the kernel forgets what its children took.
static double cpu_of_server(void) {
  char path[64];
  int pid;
  double sum = cpu_of(watched);
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", watched, watched);
  FILE *f = fopen(path, "r");
  while (f && fscanf(f, "%d", &pid) == 1) {
    int i = child_count - 1;
    while (i >= 0 && children[i].pid != pid) i--;
    if (i < 0 && child_count < 65536) children[i = child_count++].pid = pid;
    double seconds = cpu_of_child(pid);
    if (i >= 0 && seconds > children[i].seconds) children[i].seconds = seconds;
  }
  if (f) fclose(f);
  for (int i = 0; i < child_count; i++) sum += children[i].seconds;
  return sum;
}

// ---- What a client does.

static void begin(struct client *c, double at);

static void finish(struct client *c, int state, const char *why) {
  double at = now();
  c->state = state;
  running--;
  if (state == FAILED) {
    failures++;
    if (!*first_error) snprintf(first_error, sizeof first_error, "%s (block %lld)", why, (long long)c->next);
  } else if (at >= measure_from) {
    finished++;
    if (time_count == time_room && !(times = realloc(times, (time_room = time_room ? 2 * time_room : 4096) * sizeof *times))) die("tftp-client: memory");
    times[time_count++] = at - c->began;
  }
  if (state == FAILED || again || c->left) close(c->fd), c->fd = -1;
  // One that failed does not try again at once: a server that refuses would be asked a hundred thousand times a second.
  if (state == DONE && (again || c->left)) begin(c, at);
}

static void acknowledge(struct client *c) {
  uint16_t block = htons((uint16_t)(c->next - 1));
  uint8_t packet[4] = {0, ACK};
  memcpy(packet + 2, &block, 2);
  c->in_window = 0;
  acks++;
  // A refused port is heard of by the next recv; a full queue is a lost packet, which the timer is for.
  (void)!send(c->fd, packet, 4, 0);
}

static void ask(struct client *c) {
  uint8_t packet[512] = {0, RRQ};
  char *p = (char *)packet + 2;
  p += sprintf(p, "%s", file) + 1;
  p += sprintf(p, "octet") + 1;
  if (tsize) p += sprintf(p, "tsize") + 1, p += sprintf(p, "0") + 1;
  if (blksize != 512) p += sprintf(p, "blksize") + 1, p += sprintf(p, "%u", blksize) + 1;
  if (windowsize != 1) p += sprintf(p, "windowsize") + 1, p += sprintf(p, "%u", windowsize) + 1;
  if (sendto(c->fd, packet, (uint8_t *)p - packet, 0, (struct sockaddr *)&server, sizeof server) < 0 && errno != ECONNREFUSED) die("tftp-client: send");
}

static void begin(struct client *c, double at) {
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {htonl(first_address + (uint32_t)(c - clients))}};
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  int buffer = 4 << 20;
  uint64_t left = c->left;
  if ((c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)) < 0) die("tftp-client: socket");
  if (setsockopt(c->fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  if (bind(c->fd, (struct sockaddr *)&own, sizeof own) < 0) die("tftp-client: bind");
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) die("tftp-client: epoll");
  *c = (struct client){.fd = c->fd, .state = ASKING, .blksize = 512, .window = 1, .next = 1, .began = at, .heard = at, .left = left ? left - 1 : 0};
  running++;
  ask(c);
}

/// The value of an option in an OACK, or `otherwise`.
static long option_of(const uint8_t *p, const uint8_t *end, const char *name, long otherwise) {
  while (p < end) {
    const char *key = (const char *)p;
    p += strnlen(key, end - p) + 1;
    const char *value = (const char *)p;
    if (p >= end) break;
    p += strnlen(value, end - p) + 1;
    if (p > end) break;
    if (!strcasecmp(key, name)) return atol(value);
  }
  return otherwise;
}

static void granted(struct client *c, const uint8_t *p, const uint8_t *end) {
  long b = option_of(p, end, "blksize", 512), w = option_of(p, end, "windowsize", 1);
  if (b < 8 || b > blksize || w < 1 || w > windowsize) {
    uint8_t refusal[] = {0, ERROR, 0, 8, 'n', 'o', 0};
    (void)!send(c->fd, refusal, sizeof refusal, 0);
    return finish(c, FAILED, "granted more than was asked for");
  }
  c->blksize = b;
  c->window = w;
  c->state = RECEIVING;
  acknowledge(c);
}

/// A block out of sequence: behind it what was sent is lost, or before it our ACK. RFC 7440 4: tell the last one in sequence, once. A number
/// that does not rise any more belongs to a new burst, so the loss happened again, and is told again. In lock-step each is a burst of its own.
static void stray(struct client *c, int64_t block) {
  if (block >= c->next) gaps++;
  else duplicates++;
  if (!c->strayed || block <= c->strayed) acknowledge(c);
  c->strayed = block;
}

static void on_packet(struct client *c, const uint8_t *p, size_t length, double at) {
  if (length < 4 || p[0]) return;
  if (p[1] == ERROR) {
    char why[128];
    snprintf(why, sizeof why, "ERROR %d: %.*s", p[2] << 8 | p[3], (int)(length - 4 < 90 ? length - 4 : 90), p + 4);
    for (char *q = why; *q; q++) if (*q < ' ' || *q == '"' || *q == '\\') *q = '?';
    if (c->state != DONE) finish(c, FAILED, why);
    return;
  }
  if (p[1] == OACK) {
    // The same one again: our ACK 0 was lost.
    if (c->state == RECEIVING && c->next == 1) return acknowledge(c);
    if (c->state == ASKING) c->heard = at, granted(c, p + 2, p + length);
    return;
  }
  if (p[1] != DATA) return;
  // Without an OACK nothing was granted (RFC 2347).
  if (c->state == ASKING) c->state = RECEIVING;
  int64_t block = c->next + (int16_t)((uint16_t)(p[2] << 8 | p[3]) - (uint16_t)c->next);
  if (block != c->next || c->state == DONE) {
    if (block < c->next - c->window || block > c->next + c->window) strays++;
    return stray(c, block);
  }
  size_t offset = (size_t)(block - 1) * c->blksize, data = length - 4;
  if (data > c->blksize || offset + data > size || memcmp(expected + offset, p + 4, data) || (data < c->blksize && offset + data != size)) return finish(c, FAILED, "not the bytes of the file");
  c->next++;
  c->in_window++;
  c->strayed = 0;
  c->heard = at;
  if (at >= measure_from) bytes += data;
  if (data < c->blksize) {
    granted_blksize = c->blksize;
    granted_window = c->window;
    if (watched) cpu_of_server();
    acknowledge(c);
    finish(c, DONE, NULL);
  } else if (c->in_window >= c->window) {
    granted_blksize = c->blksize;
    granted_window = c->window;
    acknowledge(c);
  }
}

/// Whether there was anything.
static int receive(struct client *c) {
  if (c->fd < 0) return 0;
  if (c->state == ASKING) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(c->fd, room[0], space, 0, (struct sockaddr *)&from, &length);
    if (n < 0 || from.sin_addr.s_addr != server.sin_addr.s_addr) return n >= 0;
    // The server's TID: from now on the kernel lets nobody else in, and tells a second transfer of a repeated request that its port is closed to it.
    if (connect(c->fd, (struct sockaddr *)&from, length) < 0) die("tftp-client: connect");
    on_packet(c, room[0], n, now());
    return 1;
  }
  int most = c->window < BATCH ? c->window : BATCH, fd = c->fd;
  int n = most == 1 ? -1 : recvmmsg(fd, msgs, most, MSG_DONTWAIT, NULL);
  if (most == 1) {
    ssize_t length = recv(fd, room[0], space, MSG_DONTWAIT);
    if (length >= 0) n = 1, msgs[0].msg_len = length;
  }
  if (n < 0) {
    if (errno == ECONNREFUSED && c->state == RECEIVING) finish(c, FAILED, "the server has closed its port in the middle");
    return errno != EAGAIN;
  }
  double at = now();
  for (int i = 0; i < n && c->fd == fd; i++) on_packet(c, room[i], msgs[i].msg_len, at);
  return n > 0;
}

static void look_at_timers(double at) {
  for (struct client *c = clients; c < clients + count; c++) {
    if ((c->state != ASKING && c->state != RECEIVING) || at - c->heard < timeout) continue;
    c->heard = at;
    resends++;
    if (c->state == ASKING) ask(c);
    else c->strayed = 0, acknowledge(c);
  }
}

static int ascending(const void *a, const void *b) {
  return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b;
}

/// Of `all` downloads; -1 when that one never finished.
static double percentile(double share, size_t all) {
  size_t index = all ? (size_t)(share * (all - 1) + 0.5) : 0;
  return index < time_count ? times[index] : -1;
}

static int usage(void) {
  fprintf(stderr, "tftp-client: --server ADDRESS --local ADDRESS --file NAME --expect FILE [--port 69] [--count CLIENTS] [--blksize 512] [--windowsize 1] [--tsize]\n"
                  "  [--downloads N | --again] [--seconds LIMIT] [--warmup S] [--timeout 5] [--spin MICROSECONDS] [--watch PID]\n"
                  "  client i has address LOCAL + i; --again: over and over until warmup + seconds are over, and only what comes after the warm-up counts\n");
  return 64;
}

int main(int argc, char **argv) {
  const char *expect = NULL;
  double seconds = 60, warmup = 0, spin = 50e-6;
  uint64_t downloads = 1;
  struct option names[] = {{"server", 1, 0, 's'}, {"port", 1, 0, 'P'}, {"local", 1, 0, 'l'}, {"file", 1, 0, 'f'}, {"expect", 1, 0, 'e'}, {"count", 1, 0, 'c'}, {"blksize", 1, 0, 'b'},
                           {"windowsize", 1, 0, 'w'}, {"tsize", 0, 0, 'z'}, {"downloads", 1, 0, 'd'}, {"again", 0, 0, 'a'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'u'},
                           {"timeout", 1, 0, 'r'}, {"spin", 1, 0, 'i'}, {"watch", 1, 0, 'p'}, {0}};
  server.sin_port = htons(69);
  for (int o; (o = getopt_long_only(argc, argv, "", names, NULL)) != -1;) {
    if (o == 's') inet_pton(AF_INET, optarg, &server.sin_addr);
    else if (o == 'P') server.sin_port = htons(atoi(optarg));
    else if (o == 'l') first_address = ntohl(inet_addr(optarg));
    else if (o == 'f') file = optarg;
    else if (o == 'e') expect = optarg;
    else if (o == 'c') count = atoi(optarg);
    else if (o == 'b') blksize = atoi(optarg);
    else if (o == 'w') windowsize = atoi(optarg);
    else if (o == 'z') tsize = 1;
    else if (o == 'd') downloads = atoll(optarg);
    else if (o == 'a') again = 1;
    else if (o == 't') seconds = atof(optarg);
    else if (o == 'u') warmup = atof(optarg);
    else if (o == 'r') timeout = atof(optarg);
    else if (o == 'i') spin = atof(optarg) / 1e6;
    else if (o == 'p') watched = atoi(optarg);
    else return usage();
  }
  if (!server.sin_addr.s_addr || !first_address || !file || strlen(file) > 256 || !expect || count < 1 || blksize < 8 || blksize > 65464 || windowsize < 1 || windowsize > 65535) return usage();
  int content = open(expect, O_RDONLY);
  struct stat about;
  if (content < 0 || fstat(content, &about) < 0) die(expect);
  size = about.st_size;
  if (size && (expected = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, content, 0)) == MAP_FAILED) die(expect);
  space = ((blksize > 1024 ? blksize : 1024) + 4 + 63) & ~63ul;
  uint8_t *rooms = aligned_alloc(64, BATCH * space);
  if (!rooms) die("tftp-client: memory");
  for (int i = 0; i < BATCH; i++) room[i] = rooms + i * space, iov[i] = (struct iovec){room[i], space}, msgs[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
  if ((epoll = epoll_create1(0)) < 0 || !(clients = calloc(count, sizeof *clients))) die("tftp-client: epoll");

  double start = now(), at = start, last = start, looked = start, cpu = 0;
  measure_from = again ? start + warmup : start;
  ends = start + warmup + seconds;
  int warm = !again;
  if (watched) cpu = cpu_of_server();
  for (uint32_t i = 0; i < count; i++) clients[i].left = downloads, begin(&clients[i], start);
  struct epoll_event events[256];
  while (running && at < ends) {
    int any = 0;
    if (count <= FEW) for (uint32_t i = 0; i < count; i++) any |= receive(&clients[i]);
    at = now();
    if (!any) {
      // Asleep until something comes or the timers are due; without sleep while the last packet is not long ago.
      int n = at - last < spin ? (count <= FEW ? 0 : epoll_wait(epoll, events, 256, 0)) : epoll_wait(epoll, events, 256, 5);
      for (int i = 0; i < n; i++) any |= receive(events[i].data.ptr);
      at = now();
    }
    if (any) last = at;
    if (!warm && at >= measure_from) {
      warm = 1;
      if (watched) cpu = cpu_of_server();
    }
    if (at - looked >= 0.005) looked = at, look_at_timers(at);
  }
  double took = at - measure_from;
  if (watched) cpu = cpu_of_server() - cpu;
  // The server shall not send to nobody for a minute.
  uint8_t enough[] = {0, ERROR, 0, 0, 'e', 'n', 'o', 'u', 'g', 'h', 0};
  for (uint32_t i = 0; i < count; i++) if (clients[i].state == RECEIVING) (void)!send(clients[i].fd, enough, sizeof enough, 0);
  struct rusage own;
  getrusage(RUSAGE_SELF, &own);
  size_t all = again ? time_count : count * downloads;
  qsort(times, time_count, sizeof *times, ascending);
  printf("{\"clients\":%u,\"blksize\":%llu,\"windowsize\":%llu,\"seconds\":%.4f,\"bytes\":%llu,\"bytesPerSecond\":%.0f,\"finished\":%llu,\"unfinished\":%u,\"failures\":%llu,\"p50Seconds\":%.4f,\"maxSeconds\":%.4f,"
         "\"resends\":%llu,\"duplicates\":%llu,\"gaps\":%llu,\"strays\":%llu,\"acks\":%llu,\"cpuSeconds\":%.3f,\"ownCpuSeconds\":%.3f,\"error\":\"%s\"}\n",
         count, (unsigned long long)granted_blksize, (unsigned long long)granted_window, took, (unsigned long long)bytes, took > 0 ? bytes / took : 0, (unsigned long long)finished, again ? 0 : running,
         (unsigned long long)failures, percentile(0.5, all), percentile(1, all), (unsigned long long)resends, (unsigned long long)duplicates, (unsigned long long)gaps, (unsigned long long)strays,
         (unsigned long long)acks, cpu, own.ru_utime.tv_sec + own.ru_stime.tv_sec + (own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6, first_error);
  return 0;
}
