// Downloads one file over many connections at once, again and again; prints one line of JSON. bench/README.md tells how it is used.
// cc -O2 -o http-client http-client.c; one loop on epoll, and MSG_TRUNC takes the bytes from TCP without a copy: the server gets the processor.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "http-head.h"

enum { HEAD_ROOM = 8192, MOST_READ = 1 << 20, WATCHED = 64, SERVED_WITHIN_S = 60 };
enum { WAITING, CONNECTING, HEAD, BODY };

struct connection {
  int fd, state, got;         // got: bytes of the head
  int was_served;
  double ready_at;            // WAITING: when it asks (again)
  long long left;             // of the body
  uint64_t taken;             // bytes of bodies in the measured time
  char head[HEAD_ROOM + 1];
};

static struct connection *connections;
static struct sockaddr_in server = {.sin_family = AF_INET};
static uint32_t count = 1, first_address;
static const char *path = "/";
static long long size = -1;
static char *copy;          // where bytes are read to; NULL: they are dropped inside the kernel
static int loop, keep_alive, measuring, watched[WATCHED], watching;
static uint64_t completed, held;
static uint32_t served;          // connections that had a first 200
static char request[1024];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

/// Whatever a server does wrong ends the run: a figure with failures in it means nothing.
static void die(const char *what, uint32_t index) {
  fprintf(stderr, "http-client: connection %u: %s%s%s\n", index, what, errno ? ": " : "", errno ? strerror(errno) : "");
  exit(1);
}

static void ask(struct connection *c) {
  // It fits into any send buffer.
  if (send(c->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request)) die("request not sent", c - connections);
  c->state = HEAD;
  c->got = 0;
}

static void open_connection(struct connection *c) {
  // Each comes from an address of its own, as machines do: servers count by address.
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {htonl(first_address + (c - connections))}};
  int yes = 1;
  errno = 0;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
  if (c->fd < 0 || bind(c->fd, (struct sockaddr *)&own, sizeof own) < 0) die("no socket", c - connections);
  if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) die("connect", c - connections);
  struct epoll_event event = {.events = EPOLLOUT, .data.u32 = c - connections};
  if (epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll", c - connections);
  c->state = CONNECTING;
}

static void again(struct connection *c, double at) {
  close(c->fd);
  c->state = WAITING;
  c->ready_at = at;
}

static void take(struct connection *c, long long bytes) {
  c->left -= bytes;
  if (measuring) c->taken += bytes;
  if (c->left > 0) return;
  completed += measuring;
  if (keep_alive) ask(c);
  else again(c, 0);
}

static void on_event(struct connection *c) {
  uint32_t index = c - connections;
  errno = 0;
  if (c->state == CONNECTING) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if ((errno = error)) die("connect", index);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &event);
    return ask(c);
  }
  if (c->state == BODY) {
    ssize_t n = recv(c->fd, copy, c->left < MOST_READ ? c->left : MOST_READ, copy ? 0 : MSG_TRUNC);
    if (n > 0) take(c, n);
    else if (n == 0 || errno != EAGAIN) die("the body ended before its length", index);
    return;
  }
  struct head head;
  ssize_t n = recv(c->fd, c->head + c->got, HEAD_ROOM - c->got, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) die("no answer", index);
  c->head[c->got += n] = 0;
  int read = read_head(c->head, &head);
  if (read == 0 && c->got < HEAD_ROOM) return;
  if (read != 1) die("this is no HTTP", index);
  if (head.status == 503 && head.retry_after >= 0) {
    held++;
    return again(c, now() + head.retry_after);
  }
  if (head.status != 200) fprintf(stderr, "http-client: status %d: %.200s\n", head.status, c->head + head.length), die("not 200", index);
  if (head.content_length != size) die("another Content-Length", index);
  served += !c->was_served;
  c->was_served = 1;
  c->state = BODY;
  c->left = size;
  take(c, c->got - head.length);
}

/// User and system time of the watched processes with all their threads, in seconds.
static double cpu_of_watched(void) {
  double sum = 0;
  for (int i = 0; i < watching; i++) {
    char name[64];
    unsigned long user, system;
    snprintf(name, sizeof name, "/proc/%d/stat", watched[i]);
    FILE *f = fopen(name, "r");
    // Names of programs have spaces (`nginx: worker process`), never a bracket.
    if (!f || fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) die("a watched process is gone", 0);
    fclose(f);
    sum += (user + system) / (double)sysconf(_SC_CLK_TCK);
  }
  return sum;
}

static double own_cpu(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void run_until(double end) {
  static struct epoll_event events[256];
  for (double at = now(), looked = 0; at < end; at = now()) {
    if (at - looked > 0.005) {
      looked = at;
      for (uint32_t i = 0; i < count; i++)
        if (connections[i].state == WAITING && connections[i].ready_at <= at) open_connection(&connections[i]);
    }
    int n = epoll_wait(loop, events, 256, 5);
    for (int i = 0; i < n; i++) on_event(&connections[events[i].data.u32]);
  }
}

int main(int argc, char **argv) {
  double seconds = 3, warmup = 1;
  const char *first = NULL;
  struct option names[] = {{"server", 1, 0, 's'}, {"port", 1, 0, 'p'}, {"path", 1, 0, 'g'}, {"size", 1, 0, 'z'}, {"connections", 1, 0, 'c'}, {"first", 1, 0, 'f'},
                           {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'u'}, {"watch", 1, 0, 'w'}, {"keep-alive", 0, 0, 'k'}, {"copy", 0, 0, 'y'}, {0}};
  for (int o; (o = getopt_long_only(argc, argv, "", names, NULL)) != -1;) {
    if (o == 's') inet_pton(AF_INET, optarg, &server.sin_addr);
    else if (o == 'p') server.sin_port = htons(atoi(optarg));
    else if (o == 'g') path = optarg;
    else if (o == 'z') size = atoll(optarg);
    else if (o == 'c') count = atoi(optarg);
    else if (o == 'f') first = optarg;
    else if (o == 't') seconds = atof(optarg);
    else if (o == 'u') warmup = atof(optarg);
    else if (o == 'w') watching < WATCHED ? watched[watching++] = atoi(optarg) : 0;
    else if (o == 'k') keep_alive = 1;
    else if (o == 'y') copy = malloc(MOST_READ);
    else return 64;
  }
  if (!first || !server.sin_port || size < 0 || count < 1) return fprintf(stderr, "http-client: --server ADDRESS --port N --path PATH --size BYTES --first ADDRESS\n  [--connections N] [--warmup S] [--seconds S] [--keep-alive] [--watch PID]...\n"), 64;
  first_address = ntohl(inet_addr(first));
  char host[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &server.sin_addr, host, sizeof host);
  snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: rackseed-bench\r\nConnection: %s\r\n\r\n", path, host, ntohs(server.sin_port), keep_alive ? "keep-alive" : "close");
  connections = calloc(count, sizeof *connections);
  loop = epoll_create1(0);
  // A server that lets so many in at once may still count those of the run before.
  for (double began = now(); served < count; run_until(now() + 0.02))
    if (now() > began + SERVED_WITHIN_S) die("not all connections were served within a minute", served);
  run_until(now() + warmup);
  measuring = 1;
  double start = now(), cpu = cpu_of_watched(), own = own_cpu();
  run_until(start + seconds);
  double took = now() - start;
  cpu = cpu_of_watched() - cpu;
  own = own_cpu() - own;
  uint64_t bytes = 0, least = UINT64_MAX;
  for (uint32_t i = 0; i < count; i++) {
    bytes += connections[i].taken;
    if (connections[i].taken < least) least = connections[i].taken;
  }
  printf("{\"connections\":%u,\"seconds\":%.4f,\"bytes\":%llu,\"completed\":%llu,\"held\":%llu,\"slowestShare\":%.4f,\"cpuSeconds\":%.2f,\"clientCpuSeconds\":%.3f}\n", count, took,
         (unsigned long long)bytes, (unsigned long long)completed, (unsigned long long)held, bytes ? (double)least * count / bytes : 0, cpu, own);
  return 0;
}
