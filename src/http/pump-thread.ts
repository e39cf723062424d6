// A thread that sends blocks to many connections at once, with system calls of its own: Node would hear late that a full socket has room again.
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { createPoll } from '../net/epoll.ts';
import { libc } from '../net/libc.ts';
import { openPour, type Pour } from '../net/pour.ts';
import { listenToBell } from '../threads/bell.ts';
import { NICE_OF_PUMPS, stepBack } from '../threads/nice.ts';
import { createQueue, type Queue } from '../threads/queue.ts';
import type { FromPump, Piece, PumpData, ToPump } from './pump-messages.ts';

interface Run {
  readonly pieces: readonly Piece[];
  readonly more: boolean;
  /** The piece that it is at, the bytes of it that are out, and those of all. */
  at: number;
  offset: number;
  sent: number;
}

interface Stream {
  readonly id: number;
  readonly fd: number;
  readonly runs: Queue<Run>;
  run?: Run | undefined;
  /** The socket was not full when it was last asked. */
  room: boolean;
  queued: boolean;
  /** Its socket takes nothing any more. */
  isOver: boolean;
}

/**
 * One stream sends so much, and then others have their turn: what a pipe holds is what one call of the kernel moves. It holds pages, so a piece ends with one: where a
 * socket was full lies in the middle of a page, and else each turn would be a second call for some bytes.
 */
const TURN_BYTES = 1024 * 1024;
const PAGE = 4096;
/** After so long the thread's own event loop has its turn, which ends the thread when it is told to. */
const TURN_MS = 100;
const BELL = 0xffff_ffff;

function pump({ epoll, rope }: PumpData): void {
  const port = parentPort!;
  const say = (message: FromPump): void => port.postMessage(message);
  const c = libc();
  const pour: Pour | undefined = openPour();
  if (!c || !pour) return say({ kind: 'ready', pours: false });
  stepBack(NICE_OF_PUMPS);
  const poll = createPoll(c, epoll);
  const bell = listenToBell(c, rope);
  poll.add(bell.fd, BELL);
  const streams = new Map<number, Stream>();
  /** Those with bytes to send and room for them, in the order of their turns. */
  const ready = createQueue<Stream>();
  let turning = false;

  function enqueue(stream: Stream): void {
    stream.run ??= stream.runs.size() > 0 ? stream.runs.take() : undefined;
    if (stream.queued || !stream.room || !stream.run) return;
    stream.queued = true;
    ready.put(stream);
  }

  /** One turn: until the socket is full, the runs are out or others have waited long enough. */
  function send(stream: Stream): void {
    stream.queued = false;
    for (let turn = 0; turn <= TURN_BYTES - PAGE && stream.run && streams.has(stream.id); ) {
      const { run } = stream;
      const { address, length } = run.pieces[run.at]!;
      const left = Math.min(length - run.offset, TURN_BYTES - turn - ((address + run.offset) % PAGE));
      const isLast = run.at === run.pieces.length - 1 && run.offset + left === length;
      const taken = pour!(stream.fd, address + run.offset, left, run.more || !isLast);
      run.sent += taken;
      run.offset += taken;
      turn += taken;
      if (run.offset === length) [run.at, run.offset] = [run.at + 1, 0];
      if (run.at === run.pieces.length) {
        over(stream, run);
        stream.run = stream.runs.size() > 0 ? stream.runs.take() : undefined;
      }
      if (taken < left) {
        if (pour!.isOver) return fail(stream);
        stream.room = false;
        return;
      }
    }
    enqueue(stream);
  }

  function over({ id, fd }: Stream, run: Run): void {
    if (!run.more) forget(id, fd);
    say({ kind: 'sent', id, bytes: run.sent });
  }

  function forget(id: number, fd: number): void {
    if (streams.delete(id)) poll.remove(fd);
  }

  /** Answers all its runs, short, so that whoever gave them knows; it stays until it is closed. */
  function fail(stream: Stream): void {
    stream.isOver = true;
    if (stream.run) over(stream, stream.run);
    while (stream.runs.size() > 0) over(stream, stream.runs.take());
    stream.run = undefined;
  }

  function open(id: number, fd: number): Stream {
    const stream: Stream = { id, fd, runs: createQueue(), room: false, queued: false, isOver: false };
    streams.set(id, stream);
    poll.addForRoom(fd, id);
    if (!turning) setImmediate(turn);
    turning = true;
    return stream;
  }

  function close(stream: Stream): void {
    fail(stream);
    forget(stream.id, stream.fd);
    say({ kind: 'closed', id: stream.id });
  }

  function turn(): void {
    const until = performance.now() + TURN_MS;
    for (let at = 0; streams.size > 0 && at < until; at = performance.now()) {
      const count = ready.size() > 0 ? poll.wait(0) : bell.whileAsleep(() => poll.wait(TURN_MS));
      for (let i = 0; i < count; i++) {
        const tag = poll.tag(i);
        if (tag === BELL) bell.silence();
        const stream = streams.get(tag);
        if (!stream) continue;
        stream.room = true;
        enqueue(stream);
      }
      for (let left = ready.size(); left > 0; left--) send(ready.take());
      if (bell.rung()) takeMail();
    }
    turning = streams.size > 0;
    if (turning) setImmediate(turn);
  }

  function takeMail(): void {
    for (let mail = receiveMessageOnPort(port); mail; mail = receiveMessageOnPort(port)) take(mail.message as ToPump);
  }

  function take(message: ToPump): void {
    if (message.kind === 'end') {
      for (const { fd } of streams.values()) poll.remove(fd);
      streams.clear();
      return port.close();
    }
    const known = streams.get(message.id);
    if (message.kind === 'close') return known && close(known);
    const stream = known ?? open(message.id, message.fd);
    stream.runs.put({ pieces: message.pieces, more: message.more, at: 0, offset: 0, sent: 0 });
    if (stream.isOver) fail(stream);
    else enqueue(stream);
  }

  port.on('message', take);
  say({ kind: 'ready', pours: true });
}

pump(workerData as PumpData);
