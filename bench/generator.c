// Plays very many DHCP clients at once, as quick as the server answers; prints one line of JSON. bench/README.md tells the modes.
// C, because a generator must outrun the server: a benchmark whose client is the limit measures its client.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"

enum { BATCH = 64, SIZE = 576, XID = 0x52000000, MAX_XID = 1 << 24 };
enum { DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5, NAK = 6 };
enum { IDLE, SELECTING, REQUESTING, BOUND, RENEWING };

struct client {
  uint32_t ip, server;
  double began, sent;  // of the exchange, of its last packet
  uint32_t slot;
  uint8_t state;
};

static struct client *clients;
static uint32_t *slots, window = 64, first = 0;  // slots: which client each of the outstanding exchanges belongs to
static uint32_t count = MAX_XID, started, bound, outstanding;
static uint32_t relay;   // our own address in giaddr; 0: directly attached, by broadcast
static int sock;
static struct sockaddr_in server_addr, everybody;  // the latter is 255.255.255.255 when we are directly attached
static double resend_after = 1, measure_from;
static int offer_ends;   // an OFFER ends the exchange
static uint64_t sent, received, resent, naks, strangers, duplicates, exchanges, exchanges_all;
static float *latencies;
static size_t latency_count, latency_room;
static uint8_t *given;   // one bit for each IPv4 address: whether a client has it

static uint8_t out[BATCH][SIZE];
static struct iovec out_iov[BATCH];
static struct mmsghdr out_msgs[BATCH];
static int out_count;

static void flush(void) {
  for (int done = 0; done < out_count;) {
    int n = sendmmsg(sock, out_msgs + done, out_count - done, 0);
    if (n < 0) die("generator: send");
    done += n;
  }
  sent += out_count;
  out_count = 0;
}

static uint8_t *option(uint8_t *p, int code, int length, const void *value) {
  *p++ = code;
  *p++ = length;
  memcpy(p, value, length);
  return p + length;
}

/// A client's packet as a Linux client writes it: client-id, hostname, maximum size and a list of what it wants.
static void emit(uint32_t index, int type, double at) {
  static const uint8_t wants[] = {1, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 119, 121};
  struct client *c = &clients[index];
  uint32_t number = first + index, renewing = c->state == RENEWING;
  uint8_t *b = out[out_count], *p;
  uint8_t mac[7] = {1, 0x02, 0x52, number >> 24, number >> 16, number >> 8, number}, kind = type;
  char name[16];
  uint16_t largest = htons(1472);
  memset(b, 0, SIZE);
  b[0] = b[1] = 1;
  b[2] = 6;
  b[3] = relay && !renewing ? 1 : 0;
  *(uint32_t *)(b + 4) = htonl(XID | index);
  // The flag asks for answers by broadcast; one who renews has an address.
  if (!relay && !renewing) b[10] = 0x80;
  if (renewing) *(uint32_t *)(b + 12) = c->ip;
  else *(uint32_t *)(b + 24) = relay;
  memcpy(b + 28, mac + 1, 6);
  memcpy(b + 236, "\x63\x82\x53\x63", 4);
  p = option(b + 240, 53, 1, &kind);
  p = option(p, 61, 7, mac);
  p = option(p, 57, 2, &largest);
  if (type == REQUEST && !renewing) {
    p = option(p, 50, 4, &c->ip);
    p = option(p, 54, 4, &c->server);
  }
  p = option(p, 12, sprintf(name, "rack-%08x", number), name);
  p = option(p, 55, sizeof wants, wants);
  *p++ = 255;
  out_msgs[out_count].msg_hdr.msg_name = relay || renewing ? &server_addr : &everybody;
  out_iov[out_count].iov_len = p - b < 300 ? 300 : p - b;
  c->sent = at;
  if (++out_count == BATCH) flush();
}

static void begin(uint32_t index, uint32_t slot, int state, double at) {
  slots[slot] = index;
  clients[index].slot = slot;
  clients[index].state = state;
  clients[index].began = at;
  outstanding++;
  emit(index, state == RENEWING ? REQUEST : DISCOVER, at);
}

static void completed(struct client *c, double at) {
  exchanges_all++;
  if (at < measure_from) return;
  exchanges++;
  if (latency_count == latency_room) latencies = realloc(latencies, (latency_room = latency_room * 2 + 65536) * sizeof *latencies);
  latencies[latency_count++] = (at - c->began) * 1000;
}

/// The message type and server id of an answer; 0 when it is none.
static int read_options(const uint8_t *p, const uint8_t *end, uint32_t *server) {
  int type = 0;
  while (p < end && *p != 255) {
    if (*p == 0) { p++; continue; }
    if (p + 2 > end || p + 2 + p[1] > end) return 0;
    if (*p == 53 && p[1] == 1) type = p[2];
    if (*p == 54 && p[1] == 4) memcpy(server, p + 2, 4);
    p += 2 + p[1];
  }
  return type;
}

/// One answer. Returns the client whose exchange it ended, -1 when there is none.
static int64_t take(const uint8_t *b, int length, double at) {
  uint32_t index = ntohl(*(uint32_t *)(b + 4)) - XID, server = 0, ip;
  int type;
  if (length < 244 || b[0] != 2 || index >= count || !(type = read_options(b + 240, b + length, &server))) return strangers++, -1;
  struct client *c = &clients[index];
  memcpy(&ip, b + 16, 4);
  received++;
  if (type == OFFER && c->state == SELECTING) {
    c->ip = ip;
    c->server = server;
    if (offer_ends) {
      c->state = BOUND;
      outstanding--;
      completed(c, at);
      return index;
    }
    c->state = REQUESTING;
    emit(index, REQUEST, at);
    return -1;
  }
  if (type == ACK && (c->state == REQUESTING || c->state == RENEWING) && ip == c->ip) {
    uint32_t host = ntohl(ip), bit = 1u << (host & 7);
    if (c->state == REQUESTING) {
      duplicates += (given[host >> 3] & bit) != 0;
      given[host >> 3] |= bit;
      bound++;
    }
    c->state = BOUND;
  } else if (type == NAK && (c->state == REQUESTING || c->state == RENEWING)) {
    naks++;
    if (c->state == RENEWING) given[ntohl(c->ip) >> 3] &= ~(1u << (ntohl(c->ip) & 7));
    c->state = SELECTING;
    emit(index, DISCOVER, at);
    return -1;
  } else {
    return strangers++, -1;  // a duplicate of what was answered already
  }
  outstanding--;
  completed(c, at);
  return index;
}

static void resend(double at) {
  for (uint32_t slot = 0; slot < window; slot++) {
    struct client *c = &clients[slots[slot]];
    if (c->slot != slot || c->state == IDLE || c->state == BOUND || at - c->sent < resend_after) continue;
    resent++;
    emit(slots[slot], c->state == SELECTING ? DISCOVER : REQUEST, at);
  }
}

/// Receives until `until`, or until nothing is outstanding; `next` says which client begins in a slot that became free, -1 none.
static void pump(double until, int state, int64_t (*next)(void)) {
  static uint8_t in[BATCH][2048];
  static struct iovec iov[BATCH];
  static struct mmsghdr msgs[BATCH];
  double at = now(), checked = at, heard = at;
  for (int i = 0; i < BATCH; i++) iov[i] = (struct iovec){in[i], sizeof in[i]}, msgs[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
  // Three seconds of silence after the last answer, longer than any resend: nothing more comes.
  while (outstanding > 0 && at < until && (resend_after < 3 || at < heard + 3)) {
    int n = recvmmsg(sock, msgs, BATCH, MSG_DONTWAIT, NULL);
    at = now();
    if (n > 0) heard = at;
    for (int i = 0; i < n; i++) {
      int64_t done = take(in[i], msgs[i].msg_len, at), fresh;
      if (done >= 0 && (fresh = next()) >= 0) begin(fresh, clients[done].slot, state, at);
    }
    if (at - checked > 0.01) resend(checked = at);
    flush();
    if (n <= 0) poll(&(struct pollfd){sock, POLLIN, 0}, 1, 10);
  }
}

static int64_t next_new(void) { return started < count ? (int64_t)started++ : -1; }
/// Those that have an address, in turn.
static int64_t next_bound(void) {
  static uint32_t at;
  for (uint32_t tries = 0; tries < started; tries++) {
    uint32_t index = at++ % started;
    if (clients[index].state == BOUND) return index;
  }
  return -1;
}

static void fill_window(int state, int64_t (*next)(void)) {
  int64_t fresh;
  for (uint32_t slot = 0; slot < window && (fresh = next()) >= 0; slot++) begin(fresh, slot, state, now());
  flush();
}

static int ascending(const void *a, const void *b) {
  return *(const float *)a < *(const float *)b ? -1 : *(const float *)a > *(const float *)b;
}

static double percentile(double share) {
  return latency_count ? latencies[(size_t)(share * (latency_count - 1) + 0.5)] : -1;
}

static int open_socket(int port, uint32_t address, const char *device) {
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {address}};
  int fd = socket(AF_INET, SOCK_DGRAM, 0), yes = 1, room = 32 << 20;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes);
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (device && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device)) < 0) die("generator: SO_BINDTODEVICE");
  if (bind(fd, (struct sockaddr *)&own, sizeof own) < 0) die("generator: bind");
  return fd;
}

/// User and system time of the server with all its threads, in seconds; 0 when there is none to watch.
static double cpu_of(int pid) {
  char path[64];
  unsigned long user = 0, system = 0;
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE *f = pid ? fopen(path, "r") : NULL;
  if (!f) return 0;
  if (fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) die("generator: stat");
  fclose(f);
  return (user + system) / (double)sysconf(_SC_CLK_TCK);
}

int main(int argc, char **argv) {
  const char *mode = "dora", *device = NULL, *local = NULL;
  double seconds = 5, warmup = 0;
  int watched = 0;
  struct option names[] = {{"mode", 1, 0, 'm'}, {"server", 1, 0, 's'}, {"local", 1, 0, 'l'}, {"broadcast", 1, 0, 'b'}, {"window", 1, 0, 'w'}, {"count", 1, 0, 'c'},
                           {"first", 1, 0, 'f'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'u'}, {"resend", 1, 0, 'r'}, {"watch", 1, 0, 'p'}, {0}};
  server_addr = everybody = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(67), .sin_addr = {INADDR_BROADCAST}};
  for (int o; (o = getopt_long_only(argc, argv, "", names, NULL)) != -1;) {
    if (o == 'm') mode = optarg;
    else if (o == 's') inet_pton(AF_INET, optarg, &server_addr.sin_addr);
    else if (o == 'l') local = optarg;
    else if (o == 'b') device = optarg;
    else if (o == 'w') window = atoi(optarg);
    else if (o == 'c') count = atoi(optarg);
    else if (o == 'f') first = strtoul(optarg, NULL, 10);
    else if (o == 't') seconds = atof(optarg);
    else if (o == 'u') warmup = atof(optarg);
    else if (o == 'r') resend_after = atof(optarg);
    else if (o == 'p') watched = atoi(optarg);
    else return 64;
  }
  if (!local || window < 1 || count < 1 || count > MAX_XID) return fprintf(stderr, "generator: --local ADDRESS (--server ADDRESS | --broadcast CARD) [--mode dora|renew|burst|offer] [--window N] [--count N]\n  [--first N] [--warmup S] [--seconds S] [--resend S] [--watch PID]; bench/README.md has their meaning\n"), 64;
  sock = open_socket(device ? 68 : 67, device ? INADDR_ANY : inet_addr(local), device);
  if (!device) relay = inet_addr(local);
  clients = calloc(count, sizeof *clients);
  given = calloc(1u << 29, 1);  // of zero pages: only what is touched takes memory
  for (int i = 0; i < BATCH; i++) {
    out_iov[i] = (struct iovec){out[i], 0};
    out_msgs[i].msg_hdr = (struct msghdr){.msg_namelen = sizeof server_addr, .msg_iov = &out_iov[i], .msg_iovlen = 1};
  }

  int burst = !strcmp(mode, "burst"), renew = !strcmp(mode, "renew");
  offer_ends = burst || !strcmp(mode, "offer");
  // Without a second try: what counts is how many of those that came at once are answered at all.
  if (burst) window = count, resend_after = 1e9;
  slots = calloc(window, sizeof *slots);
  double start = now(), cpu = cpu_of(watched);
  measure_from = renew ? 1e18 : start + warmup;
  fill_window(SELECTING, next_new);
  pump(renew ? start + 120 : start + warmup + seconds, SELECTING, next_new);
  if (renew) {
    resent = sent = received = strangers = exchanges_all = 0;
    // A client has one exchange at a time.
    if (window > bound) window = bound;
    // Who renews has an address and no relay between: from port 68 to the server itself.
    close(sock);
    sock = open_socket(68, INADDR_ANY, device);
    start = now();
    cpu = cpu_of(watched);
    measure_from = start + warmup;
    fill_window(RENEWING, next_bound);
    pump(start + warmup + seconds, RENEWING, next_bound);
  }
  double took = now() - (measure_from > start ? measure_from : start);
  cpu = cpu_of(watched) - cpu;
  qsort(latencies, latency_count, sizeof *latencies, ascending);
  printf("{\"mode\":\"%s\",\"window\":%u,\"seconds\":%.4f,\"exchanges\":%llu,\"all\":%llu,\"perSecond\":%.1f,\"p50Ms\":%.3f,\"p99Ms\":%.3f,\"maxMs\":%.3f,\"bound\":%u,\"sent\":%llu,\"received\":%llu,\"resent\":%llu,\"naks\":%llu,\"strangers\":%llu,\"duplicates\":%llu,\"cpuSeconds\":%.2f}\n",
         mode, window, took, (unsigned long long)exchanges, (unsigned long long)exchanges_all, took > 0 ? exchanges / took : 0, percentile(0.5), percentile(0.99), percentile(1), bound,
         (unsigned long long)sent, (unsigned long long)received, (unsigned long long)resent, (unsigned long long)naks, (unsigned long long)strangers, (unsigned long long)duplicates, cpu);
  return 0;
}
