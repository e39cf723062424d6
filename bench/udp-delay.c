// A relay that holds every UDP datagram for a while, each way: a long path, without netem. The server may answer from a port of its own, as TFTP does.
//   cc -O2 -o udp-delay bench/udp-delay.c; ./udp-delay LISTEN-ADDRESS SERVER-ADDRESS PORT MILLISECONDS-ONE-WAY
// The clients ask LISTEN-ADDRESS:PORT; for each client address and port there are two sockets: what the server sees, and what the client sees as the server's port.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"

enum { MOST = 4096, HELD = 1 << 16, SIZE = 2048, UP = 1, DOWN = 2 };

struct session {
  struct sockaddr_in client, server;  // the server's port changes with its first answer
  int up, down;
};

struct held {
  double due;
  struct session *session;
  int way, length;
  uint8_t bytes[SIZE];
};

static struct session sessions[MOST];
static struct held *queue;  // a ring: all are held equally long, so the first that came is the first to go
static uint32_t first, after, session_count;

static int open_socket(struct in_addr address, int port) {
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), room = 8 << 20;
  if (fd < 0) die("udp-delay: socket");
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (bind(fd, (struct sockaddr *)&own, sizeof own) < 0) die("udp-delay: bind");
  return fd;
}

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "udp-delay: LISTEN-ADDRESS SERVER-ADDRESS PORT MILLISECONDS-ONE-WAY\n"), 64;
  struct in_addr listen_at;
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
  inet_pton(AF_INET, argv[1], &listen_at);
  inet_pton(AF_INET, argv[2], &server.sin_addr);
  double delay = atof(argv[4]) / 1000;
  int listener = open_socket(listen_at, atoi(argv[3])), epoll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX}, events[64];
  if (!(queue = calloc(HELD, sizeof *queue)) || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) die("udp-delay: start");
  for (;;) {
    double at = now();
    for (; first != after && queue[first % HELD].due <= at; first++) {
      struct held *h = &queue[first % HELD];
      const struct sockaddr_in *to = h->way == UP ? &h->session->server : &h->session->client;
      (void)!sendto(h->way == UP ? h->session->up : h->session->down, h->bytes, h->length, 0, (const struct sockaddr *)to, sizeof *to);
    }
    // epoll counts in milliseconds: the last of them is waited for by the nanosecond.
    double rest = first != after ? queue[first % HELD].due - at : 1;
    if (rest > 0 && rest < 0.001) {
      struct pollfd any = {.fd = epoll, .events = POLLIN};
      struct timespec t = {.tv_nsec = (long)(rest * 1e9)};
      ppoll(&any, 1, &t, NULL);
      rest = 0;
    }
    int n = epoll_wait(epoll, events, 64, rest > 0 ? (int)(rest * 1000) : 0);
    for (int i = 0; i < n; i++) {
      uint32_t which = events[i].data.u32;
      struct session *s = which == UINT32_MAX ? NULL : &sessions[which / 2];
      int way = !s || which % 2 == 0 ? UP : DOWN, fd = !s ? listener : way == UP ? s->down : s->up;
      for (;;) {
        struct held *h = &queue[after % HELD];
        struct sockaddr_in from;
        socklen_t known = sizeof from;
        if (after - first == HELD) return fprintf(stderr, "udp-delay: more than %d datagrams are on their way\n", HELD), 1;
        ssize_t length = recvfrom(fd, h->bytes, SIZE, 0, (struct sockaddr *)&from, &known);
        if (length < 0) break;
        struct session *of = s;
        if (!of) {
          for (uint32_t j = 0; j < session_count && !of; j++) if (!memcmp(&sessions[j].client, &from, sizeof from)) of = &sessions[j];
          if (!of && session_count == MOST) continue;
          if (!of) {
            of = &sessions[session_count];
            *of = (struct session){.client = from, .server = server, .up = open_socket(listen_at, 0), .down = open_socket(listen_at, 0)};
            event.data.u32 = 2 * session_count;
            epoll_ctl(epoll, EPOLL_CTL_ADD, of->down, &event);
            event.data.u32 = 2 * session_count++ + 1;
            epoll_ctl(epoll, EPOLL_CTL_ADD, of->up, &event);
          }
        } else if (way == DOWN) of->server = from;
        h->due = now() + delay;
        h->session = of;
        h->way = way;
        h->length = length;
        after++;
      }
    }
  }
}
