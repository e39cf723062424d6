// Answers TFTP requests and ACKs with the blocks that follow and remembers nothing: what the client reaches against it is the client's own limit.
// It takes what the client will ask for from its own command line: ADDRESS FILE BLKSIZE WINDOWSIZE; a file of at most 65,535 blocks.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { BATCH = 64, MOST = 65000 };

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "tftp-blaster: ADDRESS FILE BLKSIZE WINDOWSIZE\n"), 64;
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(69)}, from;
  inet_pton(AF_INET, argv[1], &own.sin_addr);
  size_t blksize = atoi(argv[3]), window = atoi(argv[4]), size, blocks;
  int content = open(argv[2], O_RDONLY), sock = socket(AF_INET, SOCK_DGRAM, 0), room = 32 << 20, segment = blksize + 4;
  struct stat about;
  if (content < 0 || fstat(content, &about) < 0) return perror(argv[2]), 1;
  size = about.st_size;
  blocks = size / blksize + 1;
  const uint8_t *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, content, 0);
  // Each block with its header in front, ready to go.
  uint8_t *ready = malloc(blocks * segment), request[2048], oack[128] = {0, 6};
  if (bytes == MAP_FAILED || !ready || blocks > 65535) return fprintf(stderr, "tftp-blaster: memory, or more than 65,535 blocks\n"), 1;
  for (size_t i = 0; i < blocks; i++) {
    uint16_t head[2] = {htons(3), htons(i + 1)};
    memcpy(ready + i * segment, head, 4);
    memcpy(ready + i * segment + 4, bytes + i * blksize, i + 1 < blocks ? blksize : size % blksize);
  }
  int length = 2;
  if (blksize != 512) length += 1 + sprintf((char *)oack + length, "blksize"), length += 1 + sprintf((char *)oack + length, "%zu", blksize);
  if (window != 1) length += 1 + sprintf((char *)oack + length, "windowsize"), length += 1 + sprintf((char *)oack + length, "%zu", window);
  setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (window > 1 && setsockopt(sock, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) < 0) return perror("tftp-blaster: UDP_SEGMENT"), 1;
  if (bind(sock, (struct sockaddr *)&own, sizeof own) < 0) return perror("tftp-blaster: bind"), 1;
  for (;;) {
    socklen_t known = sizeof from;
    // It never sleeps: nor would a server that is as quick as can be.
    ssize_t n = recvfrom(sock, request, sizeof request, MSG_DONTWAIT, (struct sockaddr *)&from, &known);
    if (n < 4) continue;
    size_t block = request[2] << 8 | request[3];
    if (request[1] == 1 && length > 2) sendto(sock, oack, length, 0, (struct sockaddr *)&from, known);
    if (request[1] == 1 && length > 2) continue;
    if (request[1] == 1) block = 0;
    else if (request[1] != 4) continue;
    for (size_t left = window; left > 0 && block < blocks;) {
      size_t most = window == 1 ? 1 : MOST / segment > BATCH ? BATCH : MOST / segment, many = left < most ? left : most;
      if (many > blocks - block) many = blocks - block;
      size_t end = block + many == blocks ? many * segment - blksize + size % blksize : many * segment;
      sendto(sock, ready + block * segment, end, 0, (struct sockaddr *)&from, known);
      block += many;
      left -= many;
    }
  }
}
