// The bare HTTP(S) servers of the machines: how long, how big and how many of everything, so that no client can hold up another.
import { createServer, STATUS_CODES, type IncomingMessage, type RequestListener, type Server, type ServerOptions, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import type { Counter, Counters } from './counters.ts';
import { refusalLine } from './refusal.ts';

/** Of one thread. Milliseconds and bytes. */
export interface HttpLimits {
  /** A request's head and body are complete by then, counted from the connection or from the request's first byte. */
  readonly requestMs: number;
  /** The peer takes at least one byte of a response within this. */
  readonly stalledMs: number;
  /** Between two requests of a connection. */
  readonly idleMs: number;
  /** Of a request's head; and how many fields of it are read at all. */
  readonly headBytes: number;
  readonly headFields: number;
  readonly connections: number;
  readonly connectionsOfPeer: number;
  /** That one connection may have waiting for their responses (RFC 9112 9.3.2, pipelining). */
  readonly requestsOfConnection: number;
  /** How often the first two are looked at. */
  readonly checkMs: number;
}

/** iPXE, EDK2, GRUB, curl, busybox and git stay far below all of these; none of them pipelines. */
export const LIMITS: HttpLimits = { requestMs: 30_000, stalledMs: 30_000, idleMs: 8_000, headBytes: 8192, headFields: 64, connections: 4096, connectionsOfPeer: 256, requestsOfConnection: 16, checkMs: 1000 };

export interface Listeners {
  /** A server that does not listen yet. */
  http(): Server;
  https(options: TlsOptions): TlsServer;
  /** Cuts every connection and listens no more. */
  close(): Promise<void>;
}

export interface TlsOptions {
  /** PEM. */
  readonly cert: string;
  readonly key: string;
  /** 48 bytes: a session that one thread began can go on in any other. */
  readonly ticketKeys: Uint8Array;
}

export type TlsServer = Server & { setSecureContext(options: SecureContextOptions): void };

interface Connection {
  /** Those that are not through, and the latest of them. */
  readonly responses: Set<ServerResponse>;
  response: ServerResponse;
  /** Of its bytes, those that were counted. */
  counted: number;
  /** How far the peer has taken what we sent, and when that changed, by `performance.now()`. */
  taken: number;
  takenAt: number;
}

/** All servers that it makes share the limits, and the handler, which is fastify's `routing`. */
export function createListeners(handler: RequestListener, counters: Counters, limits: HttpLimits): Listeners {
  const { requestMs, stalledMs, idleMs, headBytes, headFields, checkMs } = limits;
  const options: ServerOptions = { requestTimeout: requestMs, headersTimeout: requestMs, keepAliveTimeout: idleMs, connectionsCheckingInterval: checkMs, maxHeaderSize: headBytes };
  const sockets = new Set<Socket>();
  const peers = new Map<string, number>();
  /** By the socket that requests come from, which with TLS is another one than the kernel's. */
  const connections = new WeakMap<Socket, Connection>();
  /** Counted as cut: TLS tells of a failure more than once. */
  const ended = new WeakSet<Socket>();
  const answering = new Map<Socket, Connection>();
  const servers: Server[] = [];
  const cut = (socket: Socket, why: Counter): void => {
    if (!ended.has(socket)) counters.add(why);
    ended.add(socket);
    socket.destroy();
  };

  /** Before HTTP or TLS see anything of it. */
  function admit(socket: Socket): void {
    const peer = socket.remoteAddress;
    const ofPeer = peers.get(peer ?? '') ?? 0;
    const why = sockets.size >= limits.connections ? 'full' : ofPeer >= limits.connectionsOfPeer ? 'crowded' : undefined;
    if (peer === undefined || why) {
      if (why) counters.add(why);
      // Once HTTP or TLS, who are told of it next, have it in a whole state. With a reset nothing of it stays in the kernel.
      process.nextTick(() => socket.resetAndDestroy());
      return;
    }
    sockets.add(socket);
    peers.set(peer, ofPeer + 1);
    counters.add('connections');
    socket.once('close', () => {
      sockets.delete(socket);
      counters.add('connections', -1);
      const left = peers.get(peer)! - 1;
      if (left === 0) peers.delete(peer);
      else peers.set(peer, left);
    });
  }

  function open(socket: Socket, response: ServerResponse): Connection {
    const connection: Connection = { responses: new Set(), response, counted: 0, taken: 0, takenAt: 0 };
    connections.set(socket, connection);
    // Node tells only the response whose turn it is: those queued behind it would wait, and hold what they hold, for ever (20.20).
    socket.once('close', () => process.nextTick(() => {
      for (const queued of connection.responses) queued.destroy().emit('close');
    }));
    return connection;
  }

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    // The parser goes on to the end of what came with the request for which we cut.
    if (socket.destroyed) return;
    const connection = connections.get(socket) ?? open(socket, response);
    // An honest client may have two: its next request is read before we are told that the last response is out.
    if (connection.responses.size >= limits.requestsOfConnection) return cut(socket, 'crowded');
    if (connection.responses.size === 0) Object.assign(connection, { taken: takenBy(socket), takenAt: performance.now() });
    connection.responses.add(response);
    connection.response = response;
    answering.set(socket, connection);
    response.once('close', () => {
      connection.responses.delete(response);
      if (connection.responses.size === 0) answering.delete(socket);
      if (response.headersSent) counters.add(`${Math.min(5, Math.floor(response.statusCode / 100))}xx` as Counter);
      counters.add('bytes', socket.bytesWritten - connection.counted);
      connection.counted = socket.bytesWritten;
    });
    handler(request, response);
  }

  /** Node's own socket timeout begins anew with each byte that the peer sends, and sees progress only every other time. */
  function checkProgress(): void {
    const now = performance.now();
    for (const [socket, connection] of answering) {
      const taken = takenBy(socket);
      // With nothing to take it waits for us.
      if (taken !== connection.taken || socket.writableLength === 0) Object.assign(connection, { taken, takenAt: now });
      else if (now - connection.takenAt >= stalledMs) cut(socket, 'stalled');
    }
  }
  const checking = setInterval(checkProgress, checkMs).unref();

  /** What no parser understood, came too late or was too long: plain text, as all that machines get. */
  function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
    const { code = '' } = error;
    if (code === 'ECONNRESET' || code === 'EPIPE') return void socket.destroy();
    const { status, why } = MALFORMED[code] ?? { status: 400, why: 'this is no HTTP request' };
    const counted = status === 408 || code === 'ERR_TLS_HANDSHAKE_TIMEOUT' ? 'slow' : 'malformed';
    const connection = answering.get(socket);
    // Without a TLS session, or with a response on its way, nothing can be said.
    const mute = !code.startsWith('HPE_') && status !== 408;
    if (mute || !socket.writable || (connection && (connection.responses.size > 1 || connection.response.headersSent))) return cut(socket, counted);
    counters.add(counted);
    const text = refusalLine('REQUEST_INVALID', why);
    socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
    socket.destroySoon();
    // For a peer that does not take even this.
    socket.setTimeout(idleMs, () => socket.destroy());
  }

  function guarded<S extends Server>(server: S): S {
    server.maxHeadersCount = headFields;
    server.prependListener('connection', admit);
    server.on('clientError', refuseMalformed as (error: Error) => void);
    servers.push(server);
    return server;
  }

  return {
    http: () => guarded(createServer(options, answer)),
    https({ cert, key, ticketKeys }) {
      // What goes wrong in its handshakes is a clientError, too.
      return guarded(createTlsServer({ ...options, cert, key, ticketKeys: Buffer.from(ticketKeys), handshakeTimeout: requestMs }, answer));
    },
    async close() {
      clearInterval(checking);
      const closing = servers.map((server) => new Promise((resolve) => server.close(resolve)));
      for (const socket of sockets) socket.destroy();
      await Promise.all(closing);
    },
  };
}

const MALFORMED: Readonly<Record<string, { readonly status: number; readonly why: string }>> = {
  HPE_HEADER_OVERFLOW: { status: 431, why: 'the head of this request is too long' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, why: 'the request was not complete in time' },
};

interface Handle {
  readonly bytesWritten: number;
  readonly writeQueueSize: number;
  /** With TLS: that of the kernel's socket. */
  readonly _parent?: Handle;
}

/** Bytes that the kernel took. Node itself reads this for its timeouts and has no public word for it: what it has tells of whole writes only. */
function takenBy(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { readonly _handle: Handle | null };
  const tcp = handle?._parent ?? handle;
  return tcp ? tcp.bytesWritten - tcp.writeQueueSize : -1;
}
