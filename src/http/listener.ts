// The bare HTTP(S) servers of the machines: how long, how big and how many of everything, so that no client can hold up another.
import { createServer, STATUS_CODES, type IncomingMessage, type RequestListener, type Server, type ServerOptions, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import { tcpProgress } from '../net/tcp.ts';
import type { Counter, Counters } from './counters.ts';
import { refusalLine } from './refusal.ts';
import { MachineResponse } from './response.ts';
import { whoYields, type Candidate } from './room.ts';

/** Of one thread. Milliseconds and bytes. */
export interface HttpLimits {
  /** A request's head and body are complete by then, counted from the connection or from the request's first byte. */
  readonly requestMs: number;
  /** The peer takes at least one byte of a response within this; over as long a time it is measured how fast it is. */
  readonly stalledMs: number;
  /** Between two requests of a connection. */
  readonly idleMs: number;
  /** Of a request's head; and how many fields of it are read at all. */
  readonly headBytes: number;
  readonly headFields: number;
  /** With so many, one that has the least right to its place gives it to the next one (room.ts). */
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

interface Connection extends Candidate {
  /** The kernel's; with TLS requests come from another one, which is known from the first of them on. */
  readonly raw: Socket;
  /** That of its requests. */
  socket?: Socket;
  readonly peer: Peer;
  /** When it was opened or its last response was through, by `performance.now()`. */
  quietSince: number;
  /** Those that are not through, and the latest of them. */
  readonly responses: Set<ServerResponse>;
  response?: ServerResponse;
  /** Of the bytes that Node has for it, those that were counted. */
  counted: number;
  /** How far the peer has taken what we sent, and when that changed. */
  taken: number;
  takenAt: number;
  /** Where it was when its pace was measured last. */
  mark: { readonly taken: number; readonly at: number };
  bytesPerS?: number | undefined;
}

interface Peer {
  readonly address: string;
  connections: number;
}

/** When all have a better right than the next one, nobody is asked again for so long: of 4,096 that takes 0.2 ms. */
const LOOK_AGAIN_MS = 20;

/** All servers that it makes share the limits, and the handler, which is fastify's `routing`. */
export function createListeners(handler: RequestListener, counters: Counters, limits: HttpLimits): Listeners {
  const { requestMs, stalledMs, idleMs, headBytes, headFields, checkMs } = limits;
  const options: ServerOptions<typeof IncomingMessage, typeof MachineResponse> = { ServerResponse: MachineResponse, requestTimeout: requestMs, headersTimeout: requestMs, keepAliveTimeout: idleMs, connectionsCheckingInterval: checkMs, maxHeaderSize: headBytes };
  const connections = new Set<Connection>();
  const peers = new Map<string, Peer>();
  /** By the kernel's handle, and by the socket that requests come from. */
  const byHandle = new WeakMap<Handle, Connection>();
  const bySocket = new WeakMap<Socket, Connection>();
  /** Counted as cut: TLS tells of a failure more than once. */
  const ended = new WeakSet<Socket>();
  const answering = new Set<Connection>();
  const servers: Server[] = [];
  let lookedAt = -Infinity;
  const cut = (socket: Socket, why: Counter): void => {
    if (!ended.has(socket)) counters.add(why);
    ended.add(socket);
    // What it does not take would else wait for it in the kernel, with the memory that it lies in, long after the connection is none of ours.
    if (why === 'stalled') reset(bySocket.get(socket)?.raw ?? socket);
    else socket.destroy();
  };

  /** Before HTTP or TLS see anything of it. */
  function admit(raw: Socket): void {
    const address = raw.remoteAddress;
    const handle = tcpOf(raw);
    const why = (peers.get(address ?? '')?.connections ?? 0) >= limits.connectionsOfPeer ? 'crowded' : connections.size >= limits.connections && !makeRoom() ? 'full' : undefined;
    if (address === undefined || !handle || why) {
      if (why) counters.add(why);
      return reset(raw);
    }
    const peer = peers.get(address) ?? { address, connections: 0 };
    peers.set(address, peer);
    const now = performance.now();
    const connection: Connection = {
      raw, peer, quietSince: now, responses: new Set(), counted: 0, taken: 0, takenAt: now, mark: { taken: 0, at: now },
      ofPeer: () => peer.connections,
      // A body that does not come is no request that is answered.
      quietMs: (at) => (connection.responses.size > 0 && connection.response!.req.complete ? undefined : at - connection.quietSince),
      pace: () => connection.bytesPerS,
    };
    peer.connections++;
    connections.add(connection);
    byHandle.set(handle, connection);
    counters.add('connections');
    raw.once('close', () => leave(connection));
  }

  function leave(connection: Connection): void {
    if (!connections.delete(connection)) return;
    counters.add('connections', -1);
    if (--connection.peer.connections === 0) peers.delete(connection.peer.address);
  }

  /** One of those that are open goes; false when there is none that may. */
  function makeRoom(): boolean {
    const now = performance.now();
    if (now - lookedAt < LOOK_AGAIN_MS) return false;
    const found = whoYields(connections, now);
    if (!found) {
      lookedAt = now;
      return false;
    }
    counters.add('full');
    leave(found);
    ended.add(found.socket ?? found.raw);
    // The kernel may still have the end of a response for it.
    if (found.socket) found.raw.destroy();
    else reset(found.raw);
    return true;
  }

  function open(socket: Socket): Connection | undefined {
    const handle = tcpOf(socket);
    const connection = handle && byHandle.get(handle);
    if (!connection) return undefined;
    connection.socket = socket;
    bySocket.set(socket, connection);
    // Node tells only the response whose turn it is: those queued behind it would wait, and hold what they hold, for ever (20.20).
    socket.once('close', () => process.nextTick(() => {
      for (const queued of connection.responses) queued.destroy().emit('close');
    }));
    return connection;
  }

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    // The parser goes on to the end of what came with the request for which we cut.
    const connection = socket.destroyed ? undefined : (bySocket.get(socket) ?? open(socket));
    if (!connection || !connections.has(connection)) return void socket.destroy();
    // An honest client may have two: its next request is read before we are told that the last response is out.
    if (connection.responses.size >= limits.requestsOfConnection) return cut(socket, 'crowded');
    if (connection.responses.size === 0) goesOn(connection, progressOf(socket).taken, performance.now());
    connection.responses.add(response);
    connection.response = response;
    answering.add(connection);
    response.once('close', () => {
      connection.responses.delete(response);
      if (connection.responses.size === 0) {
        answering.delete(connection);
        connection.quietSince = performance.now();
      }
      if (response.headersSent) counters.add(`${Math.min(5, Math.floor(response.statusCode / 100))}xx` as Counter);
      counters.add('bytes', socket.bytesWritten - connection.counted);
      connection.counted = socket.bytesWritten;
    });
    handler(request, response);
  }

  /** Node's own socket timeout begins anew with each byte that the peer sends, and sees progress only every other time. */
  function checkProgress(): void {
    const now = performance.now();
    for (const connection of answering) {
      const socket = connection.socket!;
      const { taken, waits } = progressOf(socket);
      // With nothing to take it waits for us.
      if (!waits) goesOn(connection, taken, now);
      else if (taken !== connection.taken) Object.assign(connection, { taken, takenAt: now });
      else if (now - connection.takenAt >= stalledMs) cut(socket, 'stalled');
      const { mark } = connection;
      // The kernel takes from us in steps of up to a megabyte: over a shorter time a reader at 50 KiB/s looks as if it stood still.
      if (now - mark.at >= stalledMs) Object.assign(connection, { mark: { taken, at: now }, bytesPerS: ((taken - mark.taken) * 1000) / (now - mark.at) });
    }
  }
  const checking = setInterval(checkProgress, checkMs).unref();

  /** What no parser understood, came too late or was too long: plain text, as all that machines get. */
  function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
    const { code = '' } = error;
    if (code === 'ECONNRESET' || code === 'EPIPE') return void socket.destroy();
    const { status, why } = MALFORMED[code] ?? { status: 400, why: 'this is no HTTP request' };
    const counted = status === 408 || code === 'ERR_TLS_HANDSHAKE_TIMEOUT' ? 'slow' : 'malformed';
    const connection = bySocket.get(socket);
    // Without a TLS session, or with a response on its way, nothing can be said.
    const mute = !code.startsWith('HPE_') && status !== 408;
    if (mute || !socket.writable || (connection && (connection.responses.size > 1 || (connection.responses.size === 1 && connection.response!.headersSent)))) return cut(socket, counted);
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
      for (const { raw } of connections) raw.destroy();
      await Promise.all(closing);
    },
  };
}

const MALFORMED: Readonly<Record<string, { readonly status: number; readonly why: string }>> = {
  HPE_HEADER_OVERFLOW: { status: 431, why: 'the head of this request is too long' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, why: 'the request was not complete in time' },
};

/** With a reset nothing of it stays in the kernel; once HTTP or TLS, who are told of it after us, have it in a whole state. */
function reset(raw: Socket): void {
  process.nextTick(() => raw.resetAndDestroy());
}

/** From here on it is measured anew how fast its peer takes. */
function goesOn(connection: Connection, taken: number, now: number): void {
  Object.assign(connection, { taken, takenAt: now, mark: { taken, at: now }, bytesPerS: undefined });
}

interface Handle {
  readonly fd: number;
  readonly bytesWritten: number;
  readonly writeQueueSize: number;
  /** With TLS: that of the kernel's socket. */
  readonly _parent?: Handle;
}

/** The kernel's socket below this one; Node has no public word for it. */
function tcpOf(socket: Socket): Handle | undefined {
  const { _handle: handle } = socket as unknown as { readonly _handle: Handle | null };
  return handle?._parent ?? handle ?? undefined;
}

/** Bytes that the peer has taken, without koffi: that the kernel has taken for it, as Node itself reads it for its timeouts; and whether there are more for it. */
function progressOf(socket: Socket): { readonly taken: number; readonly waits: boolean } {
  const tcp = tcpOf(socket);
  const known = tcp && tcpProgress(tcp.fd);
  return { taken: known?.acknowledged ?? (tcp ? tcp.bytesWritten - tcp.writeQueueSize : -1), waits: socket.writableLength > 0 || known?.waits === true };
}
