// Who is at the other end of a request, and by which of our addresses it came.
import type { TLSSocket } from 'node:tls';
import type { FastifyRequest } from 'fastify';
import { parseIp4, type Ip4 } from '../addr.ts';

/** The machine's IPv4 address; a socket that listens on IPv6 too shows `::ffff:10.77.0.11`. */
export function remoteIp4(request: FastifyRequest): Ip4 | undefined {
  return parseIp4((request.socket.remoteAddress ?? '').replace(/^::ffff:/i, ''));
}

/** How this machine reached us: right on a daemon with several cards, where no one setting could be. */
export function baseUrlOf(request: FastifyRequest): string {
  const { localAddress = '127.0.0.1', localPort, encrypted } = request.socket as Partial<TLSSocket>;
  return `${encrypted ? 'https' : 'http'}://${localAddress.replace(/^::ffff:/i, '')}:${localPort}`;
}
