// Transfers on Node's own sockets, one each, in the event loop of their thread: where koffi is not installed.
import { createSocket } from 'node:dgram';
import { literal } from '../net/device-socket.ts';
import type { Reading } from './pieces.ts';
import { createRun, layHead, type Run, type TransferOrder, type TransferResult } from './runner.ts';
import type { Slots } from './slots.ts';
import { answersToStrangers } from './strangers.ts';

/** What a thread does with its transfers, which go by their slots. An order for a slot that is empty is for one that has just ended: nothing is done. */
export interface Driver {
  begin(slot: number, order: TransferOrder): void;
  askedAgain(slot: number): void;
  stop(slot: number, message?: string): void;
  /** How a reading that onRead() asked for has ended. */
  arrived(slot: number, piece: number): void;
  unreadable(slot: number, why: string): void;
  /** Ends all with an ERROR 0; no begin() may follow. */
  close(message: string): void;
}

export interface DriverParts {
  readonly slots: Slots;
  /** Called once for each begin(). */
  readonly onEnd: (slot: number, result: TransferResult) => void;
  /** A piece of the file is to be laid into the transfer's ring. */
  readonly onRead: (slot: number, reading: Reading) => void;
  /** Milliseconds on a clock that all threads share. */
  readonly now: () => number;
}

export function createDgramDriver({ slots, onEnd, onRead, now }: DriverParts): Driver {
  const running = new Map<number, Run>();
  const answerTo = answersToStrangers(slots, now);

  function begin(slot: number, order: TransferOrder): void {
    const { peer, bytes } = order;
    const socket = createSocket({ type: order.local.includes(':') ? 'udp6' : 'udp4', lookup: literal });
    let timer: NodeJS.Timeout | undefined;
    const send = (datagram: Uint8Array) => socket.send(datagram, peer.port, peer.address, () => {});
    const run = createRun(
      order,
      {
        packet: send,
        blocks(first, count) {
          for (let block = first; block < first + count; block++) {
            const place = run.placeOf(block);
            const data = bytes.subarray(place, place + run.lengthOf(block));
            const datagram = Buffer.allocUnsafe(4 + data.length);
            layHead(datagram, 0, block);
            datagram.set(data, 4);
            send(datagram);
          }
        },
        wakeAt(ms) {
          clearTimeout(timer);
          timer = setTimeout(() => run.timer(now()), Math.max(0, Math.ceil(ms - now())));
        },
        read: (reading) => onRead(slot, reading),
        over(result) {
          clearTimeout(timer);
          running.delete(slot);
          // dgram sends on the next tick: a socket closed now would swallow the last packet.
          setImmediate(() => socket.close());
          onEnd(slot, result);
        },
      },
      slots.writer(slot),
      now,
    );
    running.set(slot, run);
    socket.on('message', (datagram, from) => {
      if (from.port === 0) return;
      if (from.address === peer.address && from.port === peer.port) {
        if (run.other(datagram, now())) slots.stray('malformed');
        return;
      }
      const answer = answerTo(datagram);
      if (answer) socket.send(answer, from.port, from.address, () => {});
    });
    socket.on('error', (error) => run.fail(`socket: ${error.message}`));
    socket.bind({ address: order.local, port: 0, exclusive: true }, () => run.start());
  }

  return {
    begin,
    askedAgain: (slot) => running.get(slot)?.askedAgain(now()),
    stop: (slot, message) => running.get(slot)?.stop(message),
    arrived: (slot, piece) => running.get(slot)?.arrived(piece, now()),
    unreadable: (slot, why) => running.get(slot)?.unreadable(why),
    close(message) {
      for (const run of [...running.values()]) run.stop(message);
    },
  };
}
