// Runs one transfer on a socket of its own: carries datagrams and timers to step() and its actions back out.
import { createSocket } from 'node:dgram';
import type { Ip4 } from '../addr.ts';
import { decodeTftp, encodeTftp, TFTP_ERROR, TftpDecodeError, type TftpOptions, type TftpPacket } from './packet.ts';
import { begin, step, type Step, type TransferEvent, type TransferOutcome } from './transfer.ts';

export interface Peer {
  readonly address: Ip4;
  readonly port: number;
}

export interface TransferResult {
  readonly outcome: TransferOutcome | 'stopped';
  readonly why?: string;
  readonly durationMs: number;
  readonly blockSize: number;
  /** Packets that the timer sent again. */
  readonly resent: number;
}

export interface RunningTransfer {
  /** The peer sent its request again. */
  askedAgain(): void;
  /** A new ACK has come from the peer at some time. */
  heard(): boolean;
  /** How long ago the last new ACK came, or the transfer began, in milliseconds. */
  quietMs(): number;
  /** Ends it at once; the peer is told why in an ERROR 0 when there is a `message`. */
  stop(message?: string): void;
}

export interface TransferRun {
  /** Our own address that was asked: the answer leaves from it, whatever other addresses the host has. */
  readonly local: Ip4;
  readonly peer: Peer;
  readonly bytes: Uint8Array;
  readonly options: TftpOptions;
  readonly maxBlockSize: number;
  /** Milliseconds on any clock that never jumps. */
  readonly now: () => number;
  /** Called once, last of all. */
  readonly onEnd: (result: TransferResult) => void;
  /** A datagram that is not this transfer's: counted, the transfer goes on. */
  readonly onStray: (what: 'malformed' | 'wrongTid' | 'faults', error?: unknown) => void;
}

export function runTransfer(run: TransferRun): RunningTransfer {
  const { peer, now } = run;
  const startedAt = now();
  const socket = createSocket('udp4');
  let { state, actions } = begin(run.bytes, run.options, startedAt, run.maxBlockSize);
  let timer: NodeJS.Timeout | undefined;
  let bound = false;
  let over = false;

  // A packet that could not leave is a lost packet: the timer sends it again or gives up.
  const send = (packet: TftpPacket, to: Peer) => socket.send(encodeTftp(packet), to.port, to.address, () => {});

  const finish = (outcome: TransferResult['outcome'], why?: string) => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    // dgram sends on the next tick: a socket closed now would swallow the last packet.
    setImmediate(() => socket.close());
    run.onEnd({ outcome, ...(why === undefined ? {} : { why }), durationMs: Math.round(now() - startedAt), blockSize: state.blockSize, resent: state.resent });
  };

  const perform = (next: Step) => {
    state = next.state;
    for (const action of next.actions) {
      if (action.kind === 'send') send(action.packet, peer);
      else if (action.kind === 'end') finish(action.outcome, action.why);
      else {
        clearTimeout(timer);
        timer = setTimeout(() => take({ kind: 'timer', at: now() }), Math.max(0, Math.ceil(action.atMs - now())));
      }
    }
  };
  const take = (event: TransferEvent) => {
    if (!over && bound) perform(step(state, event));
  };

  socket.on('message', (datagram, from) => {
    try {
      if (over || from.port === 0) return;
      const packet = decodeTftp(datagram);
      if (from.address === peer.address && from.port === peer.port) return take({ kind: 'packet', packet, at: now() });
      run.onStray('wrongTid');
      // RFC 1350 section 4: tell the stranger, leave the transfer alone. An ERROR is never answered, two servers could go on for ever.
      if (packet.kind !== 'error') send({ kind: 'error', code: TFTP_ERROR.unknownTransferId, message: 'this transfer is not yours' }, { address: from.address, port: from.port });
    } catch (error) {
      run.onStray(error instanceof TftpDecodeError ? 'malformed' : 'faults', error);
    }
  });
  socket.on('error', (error) => finish('failed', `socket: ${error.message}`));
  socket.bind({ address: run.local, port: 0, exclusive: true }, () => {
    if (over) return;
    bound = true;
    perform({ state, actions });
  });

  return {
    askedAgain: () => take({ kind: 'asked-again', at: now() }),
    heard: () => state.heard,
    quietMs: () => now() - state.progressAt,
    stop(message) {
      if (message !== undefined && bound && !over) send({ kind: 'error', code: TFTP_ERROR.undefined, message }, peer);
      finish('stopped', message);
    },
  };
}
