// Answers every DISCOVER with an OFFER and every REQUEST with an ACK, and knows nothing: what the generator reaches against it is the generator's own limit.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64 };

int main(int argc, char **argv) {
  static uint8_t bytes[BATCH][2048];
  static struct sockaddr_in from[BATCH];
  static struct iovec iov[BATCH];
  static struct mmsghdr msgs[BATCH];
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(67)};
  uint32_t pool = ntohl(inet_addr(argc > 2 ? argv[2] : "10.81.0.0"));
  int sock = socket(AF_INET, SOCK_DGRAM, 0), room = 32 << 20, yes = 1;
  if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0) setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  setsockopt(sock, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes);
  inet_pton(AF_INET, argc > 1 ? argv[1] : "0.0.0.0", &own.sin_addr);
  if (bind(sock, (struct sockaddr *)&own, sizeof own) < 0) return perror("echo: bind"), 1;
  for (;;) {
    for (int i = 0; i < BATCH; i++) {
      iov[i] = (struct iovec){bytes[i], sizeof bytes[i]};
      msgs[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &iov[i], .msg_iovlen = 1};
    }
    int n = recvmmsg(sock, msgs, BATCH, MSG_WAITFORONE, NULL);
    for (int i = 0; i < n; i++) {
      uint8_t *b = bytes[i];
      // The generator's first option is always the message type, and its xid counts the clients from 0.
      uint32_t ip = htonl(pool + (ntohl(*(uint32_t *)(b + 4)) & 0xffffff));
      b[0] = 2;
      memcpy(b + 16, &ip, 4);
      b[242] = b[242] == 1 ? 2 : 5;
      b[243] = 54;
      b[244] = 4;
      memcpy(b + 245, &own.sin_addr, 4);
      b[249] = 255;
      iov[i].iov_len = 300;
    }
    if (n > 0 && sendmmsg(sock, msgs, n, 0) < 0) perror("echo: send");
  }
}
