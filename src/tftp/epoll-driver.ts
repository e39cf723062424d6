// Transfers on sockets of our own, with system calls of our own: connected to their peers, windows as one send, and no event loop in between.
import { openConnectedPair, lengthOf, setSegment } from '../net/connected.ts';
import { createPoll } from '../net/epoll.ts';
import { addressAsNumber, createGather, HEAD } from '../net/gather.ts';
import type { Libc } from '../net/libc.ts';
import type { BellListener } from '../threads/bell.ts';
import type { Driver, DriverParts } from './dgram-driver.ts';
import { createRun, layHead, type Run, type TransferOrder } from './runner.ts';
import { answersToStrangers } from './strangers.ts';
import { createSpin, SPIN_MS } from '../threads/spin.ts';

export interface EpollParts {
  readonly c: Libc;
  readonly epoll: number;
  readonly bell: BellListener;
  readonly takeMail: () => void;
}

interface Transfer {
  readonly run: Run;
  readonly fd: number;
  readonly strangers: number;
  /** False: both are closed, and their numbers may be another thread's files by now. */
  open: boolean;
  /** Kept, so that the address stays good. */
  readonly bytes: Uint8Array;
  readonly address: number;
  /** When the transfer wants its timer event; Infinity: never. */
  wakeAt: number;
  /** Blocks that one send carries; 1: each goes by itself. */
  burst: number;
}

/** Linux: at most 64 segments (128 since 6.9), and an IP packet ends at 65,535. */
const MOST_SEGMENTS = 64;
const MOST_BYTES = 65_000;
/** After so long the thread's own event loop has its turn, which ends the thread when it is told to. */
const TURN_MS = 100;
const MSG_DONTWAIT = 0x40;
/** So often in a row the peers alone are asked. */
const ROUNDS = 32;
const BELL = 0xffff_ffff;
const LONGEST_DATAGRAM = 2_048;

/** `epoll`: of openPoll(). `takeMail` takes what was posted to the thread; it is called when the bell has rung. */
export function createEpollDriver({ c, epoll, bell, takeMail }: EpollParts, { slots, onEnd, onRead, now }: DriverParts): Driver {
  const poll = createPoll(c, epoll);
  poll.add(bell.fd, BELL);
  const running = new Map<number, Transfer>();
  /** No transfer's timer is due before. */
  let nearest = Infinity;
  let turning = false;
  const received = Buffer.alloc(LONGEST_DATAGRAM);
  const gather = createGather(c, MOST_SEGMENTS);
  const spin = createSpin();
  const answerTo = answersToStrangers(slots, now);
  let rounds = 0;

  /** `result` of a send. False: the kernel cannot cut it into segments, and nothing left. */
  function left(transfer: Transfer, result: number): boolean {
    if (result >= 0) return true;
    const code = c.failure();
    if (code === 'ECONNREFUSED') refused(transfer);
    else if (transfer.burst > 1 && (code === 'EINVAL' || code === 'EIO' || code === 'EMSGSIZE')) {
      // No GSO on this path, or a block is larger than its MTU: by itself it goes in fragments.
      transfer.burst = 1;
      setSegment(c, transfer.fd, 0);
      return false;
    }
    return true;
  }

  function sendPacket(transfer: Transfer, bytes: Uint8Array): void {
    const send = () => left(transfer, c.send(transfer.fd, bytes, bytes.length, MSG_DONTWAIT));
    const segment = 4 + transfer.run.terms.blockSize;
    // With blocks of a few bytes the kernel would cut an OACK, too.
    const whole = transfer.burst > 1 && bytes.length > segment;
    if (whole) setSegment(c, transfer.fd, 0);
    if (!send()) send();
    if (whole && transfer.open && transfer.burst > 1) setSegment(c, transfer.fd, segment);
  }

  function sendBlocks(transfer: Transfer, first: number, count: number): void {
    const { run } = transfer;
    for (let block = first; transfer.open && block < first + count; ) {
      const end = Math.min(first + count, block + transfer.burst);
      for (let each = block; each < end; each++) {
        layHead(gather.heads, (each - block) * HEAD, each);
        gather.body(each - block, transfer.address + run.placeOf(each), run.lengthOf(each));
      }
      if (left(transfer, gather.send(transfer.fd, end - block, MSG_DONTWAIT))) block = end;
    }
  }

  /** An ICMP error said so: the client is done, or was never there. */
  function refused(transfer: Transfer): void {
    transfer.run.fail('the client has closed its port');
  }

  function begin(slot: number, order: TransferOrder): void {
    const { peer, strangers } = openConnectedPair(c, order.local, order.peer);
    const writer = slots.writer(slot);
    writer.holds(peer, strangers);
    const run = createRun(
      order,
      {
        packet: (bytes) => sendPacket(transfer, bytes),
        blocks: (first, count) => sendBlocks(transfer, first, count),
        wakeAt(ms) {
          transfer.wakeAt = ms;
          if (ms < nearest) nearest = ms;
        },
        read: (reading) => onRead(slot, reading),
        over(result) {
          running.delete(slot);
          transfer.open = false;
          writer.holds(0, 0);
          c.close(peer);
          c.close(strangers);
          onEnd(slot, result);
        },
      },
      writer,
      now,
    );
    const transfer: Transfer = { run, fd: peer, strangers, open: true, bytes: order.bytes, address: addressAsNumber(c, order.bytes), wakeAt: Infinity, burst: 1 };
    running.set(slot, transfer);
    const { windowSize, blockSize } = run.terms;
    const segments = Math.min(windowSize, MOST_SEGMENTS, Math.floor(MOST_BYTES / (4 + blockSize)));
    if (segments > 1 && setSegment(c, peer, 4 + blockSize)) transfer.burst = segments;
    poll.add(peer, slot * 2);
    poll.add(strangers, slot * 2 + 1);
    run.start();
    if (!turning) setImmediate(turn);
    turning = true;
  }

  /** False: nothing had come. */
  function hear(transfer: Transfer): boolean {
    const { run, fd } = transfer;
    const length = c.recv(fd, received, LONGEST_DATAGRAM, MSG_DONTWAIT);
    if (length < 0) {
      const code = c.failure();
      if (code === 'ECONNREFUSED') refused(transfer);
      return code !== 'EAGAIN';
    }
    if (length >= 4 && received[0] === 0 && received[1] === 4) {
      run.ack((received[2]! << 8) | received[3]!, now());
    } else if (run.other(received.subarray(0, length), now())) {
      slots.stray('malformed');
    }
    return true;
  }

  const from = Buffer.alloc(28);
  const fromLength = lengthOf(from);
  function hearStranger(fd: number): void {
    fromLength.writeInt32LE(from.length);
    const length = c.recvfrom(fd, received, LONGEST_DATAGRAM, MSG_DONTWAIT, from, fromLength);
    if (length < 0) return;
    const answer = answerTo(received.subarray(0, length));
    if (answer) c.sendto(fd, answer, answer.length, MSG_DONTWAIT, from, fromLength.readInt32LE());
  }

  function onTime(at: number): void {
    if (at < nearest) return;
    nearest = Infinity;
    for (const transfer of running.values()) {
      if (transfer.wakeAt <= at) {
        // Set anew by the event itself.
        transfer.wakeAt = Infinity;
        transfer.run.timer(at);
      }
      if (transfer.wakeAt < nearest) nearest = transfer.wakeAt;
    }
  }

  /** Asks those few peers' sockets themselves, without asking first which of them has something. */
  function spinOnce(): boolean {
    let any = false;
    for (const transfer of running.values()) any = hear(transfer) || any;
    return any;
  }

  /** How many sockets have something that was not taken yet, as poll has them. */
  function wait(at: number, until: number): number {
    if (spin.pays(running.size)) {
      const end = at + SPIN_MS;
      do {
        if (!spinOnce()) continue;
        spin.won();
        // Strangers and the bell must not wait for a pause that never comes.
        return ++rounds % ROUNDS === 0 ? poll.wait(0) : 0;
      } while (now() < end);
      spin.lost();
    }
    return bell.whileAsleep(() => poll.wait(Math.max(0, Math.ceil(Math.min(nearest, until) - now()))));
  }

  function turn(): void {
    const until = now() + TURN_MS;
    let at = until - TURN_MS;
    while (running.size > 0 && at < until) {
      const count = wait(at, until);
      for (let i = 0; i < count; i++) {
        const tag = poll.tag(i);
        if (tag === BELL) {
          bell.silence();
          continue;
        }
        // Undefined: an event of this very round ended it.
        const transfer = running.get(tag >>> 1);
        if (!transfer) continue;
        if (tag & 1) hearStranger(transfer.strangers);
        else hear(transfer);
      }
      at = now();
      onTime(at);
      if (bell.rung()) takeMail();
    }
    turning = running.size > 0;
    if (turning) setImmediate(turn);
  }

  return {
    begin(slot, order) {
      try {
        begin(slot, order);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === undefined) throw error;
        const why = `socket: ${(error as Error).message}`;
        const begun = running.get(slot);
        if (begun) begun.run.fail(why);
        else onEnd(slot, { outcome: 'failed', why, durationMs: 0, blockSize: 0, windowSize: 0, resent: 0 });
      }
    },
    askedAgain: (slot) => running.get(slot)?.run.askedAgain(now()),
    stop: (slot, message) => running.get(slot)?.run.stop(message),
    arrived: (slot, piece) => running.get(slot)?.run.arrived(piece, now()),
    unreadable: (slot, why) => running.get(slot)?.run.unreadable(why),
    close(message) {
      for (const { run } of [...running.values()]) run.stop(message);
    },
  };
}
