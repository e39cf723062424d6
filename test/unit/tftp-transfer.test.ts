// One TFTP transfer as a pure machine: tables of situations, and a lossy network that must neither corrupt nor double the stream.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { TftpPacket } from '../../src/tftp/packet.ts';
import { begin, GIVE_UP_BEFORE_FIRST_ACK_MS, GIVE_UP_MS, RESENDS_BEFORE_FIRST_ACK, step, type Step, type TransferAction, type TransferEvent } from '../../src/tftp/transfer.ts';

const bytesOf = (size: number) => Uint8Array.from({ length: size }, (_, index) => (index * 7 + (index >> 8)) & 255);
const asked = (options: Record<string, string> = {}) => new Map(Object.entries(options));
const ack = (block: number, at: number): TransferEvent => ({ kind: 'packet', packet: { kind: 'ack', block }, at });
const sent = (actions: readonly TransferAction[]) => actions.flatMap((action) => (action.kind === 'send' ? [brief(action.packet)] : []));
const ended = (actions: readonly TransferAction[]) => actions.find((action) => action.kind === 'end');
const timerOf = (actions: readonly TransferAction[]) => actions.flatMap((action) => (action.kind === 'timer' ? [action.atMs] : []))[0];

function brief(packet: TftpPacket): string {
  switch (packet.kind) {
    case 'data':
      return `DATA ${packet.block} (${packet.data.length})`;
    case 'oack':
      return `OACK ${[...packet.options].flat().join(' ')}`.trim();
    case 'error':
      return `ERROR ${packet.code}`;
    default:
      return packet.kind;
  }
}

/** Lets every event come in turn and shows what was sent for each. */
function play(first: Step, events: readonly TransferEvent[]): { readonly last: Step; readonly log: string[][] } {
  let last = first;
  const log = [sent(first.actions)];
  for (const event of events) {
    last = step(last.state, event);
    log.push(sent(last.actions));
  }
  return { last, log };
}

describe('the answer to a request', () => {
  test.each<[string, Record<string, string>, number, string]>([
    ['without options is the first block of 512', {}, 1468, 'DATA 1 (512)'],
    ['grants blksize', { blksize: '1024' }, 1468, 'OACK blksize 1024'],
    ['clamps blksize to what the path carries', { blksize: '65464' }, 1468, 'OACK blksize 1468'],
    ['clamps blksize to a narrow path', { blksize: '1432' }, 1400, 'OACK blksize 1400'],
    ['clamps a blksize that RFC 2348 does not know', { blksize: '65535' }, 100_000, 'OACK blksize 65464'],
    ['grants the smallest blksize', { blksize: '8' }, 1468, 'OACK blksize 8'],
    ['ignores a blksize below 8', { blksize: '7' }, 1468, 'DATA 1 (512)'],
    ['ignores a blksize that is no number', { blksize: '1e3' }, 1468, 'DATA 1 (512)'],
    ['ignores a negative blksize', { blksize: '-1' }, 1468, 'DATA 1 (512)'],
    ['ignores an empty blksize', { blksize: '' }, 1468, 'DATA 1 (512)'],
    ['tells the size', { tsize: '0' }, 1468, 'OACK tsize 2000'],
    ['returns a timeout as it came', { timeout: '6' }, 1468, 'OACK timeout 6'],
    ['ignores a timeout of 0', { timeout: '0' }, 1468, 'DATA 1 (512)'],
    ["ignores a timeout over 255, such as node-tftp's 3000", { timeout: '3000' }, 1468, 'DATA 1 (512)'],
    ['leaves out options that it does not know', { windowsize: '4', multicast: '', tsize: '0' }, 1468, 'OACK tsize 2000'],
    ['grants several in the order of the request', { tsize: '0', blksize: '1432', timeout: '5' }, 1468, 'OACK tsize 2000 blksize 1432 timeout 5'],
  ])('%s', (_name, options, maxBlockSize, answer) => {
    expect(sent(begin(bytesOf(2000), asked(options), 0, maxBlockSize).actions)).toEqual([answer]);
  });
});

describe('the blocks of a file', () => {
  test.each<[string, number, string[]]>([
    ['end with an odd one', 1000, ['DATA 1 (512)', 'DATA 2 (488)']],
    ['end with an empty one when the size is a multiple', 1024, ['DATA 1 (512)', 'DATA 2 (512)', 'DATA 3 (0)']],
    ['are one empty one for an empty file', 0, ['DATA 1 (0)']],
    ['are one for a small file', 1, ['DATA 1 (1)']],
    ['are one for one byte less than a block', 511, ['DATA 1 (511)']],
  ])('%s', (_name, size, blocks) => {
    const { last, log } = play(begin(bytesOf(size), asked(), 0), blocks.map((_, index) => ack(index + 1, index)));
    expect(log.flat()).toEqual(blocks);
    expect(ended(last.actions)).toEqual({ kind: 'end', outcome: 'complete' });
  });

  test('are numbered 0 after 65535, and the file still arrives whole', () => {
    const bytes = bytesOf(8 * 70_000 + 3);
    let current = step(begin(bytes, asked({ blksize: '8' }), 0).state, ack(0, 0));
    const got: Uint8Array[] = [];
    const numbers: number[] = [];
    while (!current.state.ended) {
      const [action] = current.actions;
      if (action?.kind !== 'send' || action.packet.kind !== 'data') throw new Error('no data');
      got.push(action.packet.data);
      numbers.push(action.packet.block);
      current = step(current.state, ack(action.packet.block, 0));
    }
    expect(numbers.slice(65533, 65538)).toEqual([65534, 65535, 0, 1, 2]);
    expect(Buffer.concat(got).equals(bytes)).toBe(true);
    expect(ended(current.actions)).toEqual({ kind: 'end', outcome: 'complete' });
  });
});

describe('on the way', () => {
  test('an OACK is followed by data only after ACK 0', () => {
    const { log } = play(begin(bytesOf(600), asked({ tsize: '0' }), 0), [ack(1, 1), ack(0, 2)]);
    expect(log).toEqual([['OACK tsize 600'], [], ['DATA 1 (512)']]);
  });

  test('a lost block is sent again by the timer, and only by it', () => {
    const first = begin(bytesOf(600), asked(), 0);
    expect(timerOf(first.actions)).toBe(100);
    const { log } = play(first, [{ kind: 'timer', at: 100 }, ack(1, 105), ack(2, 110)]);
    expect(log).toEqual([['DATA 1 (512)'], ['DATA 1 (512)'], ['DATA 2 (88)'], []]);
  });

  test('a timer that comes early asks to be set again and sends nothing', () => {
    const early = step(begin(bytesOf(600), asked(), 0).state, { kind: 'timer', at: 99.9 });
    expect(early.actions).toEqual([{ kind: 'timer', atMs: 100 }]);
  });

  test('a lost ACK costs one block sent again, whose ACKs then count once', () => {
    const { last, log } = play(begin(bytesOf(1200), asked(), 0), [{ kind: 'timer', at: 100 }, ack(1, 101), ack(1, 102), ack(1, 103), ack(2, 104), ack(2, 104), ack(3, 105)]);
    expect(log).toEqual([['DATA 1 (512)'], ['DATA 1 (512)'], ['DATA 2 (512)'], [], [], ['DATA 3 (176)'], [], []]);
    expect(ended(last.actions)).toEqual({ kind: 'end', outcome: 'complete' });
  });

  test('an ACK from the future or the past moves nothing', () => {
    const { log } = play(begin(bytesOf(1200), asked(), 0), [ack(2, 1), ack(0, 1), ack(65535, 1)]);
    expect(log.flat()).toEqual(['DATA 1 (512)']);
  });

  test('packets that no client should send are passed over', () => {
    const { log, last } = play(begin(bytesOf(1200), asked(), 0), [
      { kind: 'packet', at: 1, packet: { kind: 'data', block: 1, data: bytesOf(5) } },
      { kind: 'packet', at: 1, packet: { kind: 'oack', options: asked() } },
      { kind: 'packet', at: 1, packet: { kind: 'rrq', file: 'a', mode: 'octet', options: asked() } },
    ]);
    expect(log.flat()).toEqual(['DATA 1 (512)']);
    expect(last.state.ended).toBe(false);
  });

  test('a request that comes again before the first ACK gets its answer again, later nothing', () => {
    const { log } = play(begin(bytesOf(1200), asked(), 0), [{ kind: 'asked-again', at: 50 }, ack(1, 60), { kind: 'asked-again', at: 70 }]);
    expect(log).toEqual([['DATA 1 (512)'], ['DATA 1 (512)'], ['DATA 2 (512)'], []]);
  });

  test('an ended transfer does nothing any more', () => {
    const { last } = play(begin(bytesOf(1), asked(), 0), [ack(1, 1)]);
    for (const event of [ack(1, 2), { kind: 'timer', at: 1e9 }, { kind: 'asked-again', at: 3 }] as const) expect(step(last.state, event).actions).toEqual([]);
  });
});

describe('the client ends it', () => {
  const error = (code: number, message = ''): TransferEvent => ({ kind: 'packet', at: 5, packet: { kind: 'error', code, message } });
  test.each<[string, Record<string, string>, TransferEvent[], unknown]>([
    ['with error 8 after the OACK: it wanted the size', { tsize: '0' }, [error(8, 'User aborted')], { kind: 'end', outcome: 'aborted' }],
    ['with error 0 after the OACK: it wanted the size', { tsize: '0' }, [error(0, 'TFTP Aborted')], { kind: 'end', outcome: 'aborted' }],
    ['with another error after the OACK', { tsize: '0' }, [error(3, 'too big')], { kind: 'end', outcome: 'failed', why: 'the client sent error 3: too big' }],
    ['with error 0 in the middle of the data', {}, [ack(1, 1), error(0)], { kind: 'end', outcome: 'failed', why: 'the client sent error 0' }],
    ['with error 8 when no option was granted', {}, [error(8)], { kind: 'end', outcome: 'failed', why: 'the client sent error 8' }],
  ])('%s', (_name, options, events, end) => {
    const { last } = play(begin(bytesOf(2000), asked(options), 0), events);
    expect(ended(last.actions)).toEqual(end);
    expect(last.actions).toHaveLength(1);
  });
});

/** Runs only timers until the transfer ends. */
function leaveAlone(from: Step): { readonly sends: string[]; readonly waits: number[]; readonly end: unknown; readonly at: number } {
  let current = from;
  let at = 0;
  const sends: string[] = [];
  const waits: number[] = [];
  while (!current.state.ended) {
    waits.push(current.state.deadlineAt - at);
    at = current.state.deadlineAt;
    current = step(current.state, { kind: 'timer', at });
    sends.push(...sent(current.actions));
  }
  return { sends, waits, end: ended(current.actions), at };
}

describe('the timer', () => {
  test('resends three times at most to an address that never answered, and then lets go in silence', () => {
    const { sends, end, at } = leaveAlone(begin(bytesOf(600), asked(), 0));
    expect(sends).toEqual(Array(RESENDS_BEFORE_FIRST_ACK).fill('DATA 1 (512)'));
    expect(end).toEqual({ kind: 'end', outcome: 'failed', why: 'the client never answered' });
    expect(at).toBe(GIVE_UP_BEFORE_FIRST_ACK_MS);
  });

  test('doubles up to a cap, and gives a peer that was there 20 s', () => {
    const { waits, sends, end, at } = leaveAlone(step(begin(bytesOf(600), asked(), 0).state, ack(1, 0)));
    expect(waits.slice(0, 8)).toEqual([20, 40, 80, 160, 320, 640, 1280, 2000]);
    expect(sends.at(-1)).toBe('ERROR 0');
    expect(end).toEqual({ kind: 'end', outcome: 'failed', why: 'the client fell silent' });
    expect(at).toBe(GIVE_UP_MS);
  });

  test('never waits longer than the timeout that the client asked for', () => {
    const { waits } = leaveAlone(step(begin(bytesOf(600), asked({ timeout: '1' }), 0).state, ack(0, 0)));
    expect(Math.max(...waits)).toBe(1000);
  });

  test.each<[string, number, number]>([
    ['follows a fast path down to the floor of 20 ms', 1, 20],
    ['waits three round trips after the first one', 40, 120],
    ['follows a slow client up', 400, 1200],
  ])('%s', (_name, rtt, timeout) => {
    const next = step(begin(bytesOf(2000), asked(), 0).state, ack(1, rtt));
    expect(timerOf(next.actions)).toBe(rtt + timeout);
  });

  test('learns nothing from a block that was sent twice (Karn), but stays slow', () => {
    const { last } = play(begin(bytesOf(2000), asked(), 0), [{ kind: 'timer', at: 100 }, ack(1, 101)]);
    expect(last.state.srttMs).toBeUndefined();
    expect(timerOf(last.actions)).toBe(101 + 200);
  });

  test('duplicate ACKs do not keep a dead transfer alive', () => {
    let current = step(begin(bytesOf(2000), asked(), 0).state, ack(1, 0));
    for (let at = 0; !current.state.ended && at < 60_000; at += 10) {
      current = step(current.state, ack(1, at));
      current = step(current.state, { kind: 'timer', at });
    }
    expect(ended(current.actions)).toMatchObject({ outcome: 'failed' });
  });
});

/** What the network does with one packet: 0 = lost, else how many copies arrive and how late. */
type Fate = readonly { readonly delayMs: number }[];
const fate: fc.Arbitrary<Fate> = fc.oneof(
  { weight: 6, arbitrary: fc.constant([{ delayMs: 1 }]) },
  { weight: 2, arbitrary: fc.constant([]) },
  { weight: 2, arbitrary: fc.array(fc.record({ delayMs: fc.integer({ min: 0, max: 400 }) }), { minLength: 1, maxLength: 3 }) },
);

interface Simulated {
  readonly received: Buffer;
  readonly clientDone: boolean;
  readonly end: TransferAction | undefined;
  readonly dataSent: number;
  readonly advances: number;
  readonly timerSends: number;
}

/** A plain RFC 1350 client behind a network that follows `fates`, and delivers everything once they are used up. */
function simulate(bytes: Uint8Array, options: Map<string, string>, fates: readonly Fate[]): Simulated {
  const queue: { at: number; order: number; to: 'server' | 'client'; packet: TftpPacket }[] = [];
  const received: Uint8Array[] = [];
  let order = 0;
  let used = 0;
  let clientWants = 1;
  let blockSize = 512;
  let clientDone = false;
  let [dataSent, advances, timerSends] = [0, 0, 0];
  let end: TransferAction | undefined;
  const put = (to: 'server' | 'client', packet: TftpPacket, now: number) => {
    for (const copy of fates[used++] ?? [{ delayMs: 1 }]) queue.push({ at: now + copy.delayMs, order: order++, to, packet });
  };
  let current = begin(bytes, options, 0);
  let now = 0;
  const act = (next: Step, cause: 'ack' | 'timer' | 'start') => {
    if (next.state.index > current.state.index) advances++;
    current = next;
    for (const action of next.actions) {
      if (action.kind === 'end') end = action;
      if (action.kind !== 'send' || action.packet.kind === 'error') continue;
      dataSent++;
      if (cause === 'timer') timerSends++;
      put('client', action.packet, now);
    }
  };
  act(current, 'start');
  for (let turns = 0; turns < 20_000 && (!current.state.ended || queue.length > 0); turns++) {
    queue.sort((a, b) => a.at - b.at || a.order - b.order);
    const head = queue[0];
    if (!head || (!current.state.ended && current.state.deadlineAt < head.at)) {
      now = Math.max(now, current.state.deadlineAt);
      act(step(current.state, { kind: 'timer', at: now }), 'timer');
      continue;
    }
    queue.shift();
    now = Math.max(now, head.at);
    if (head.to === 'server') act(step(current.state, { kind: 'packet', packet: head.packet, at: now }), 'ack');
    else if (head.packet.kind === 'oack') {
      blockSize = Number(head.packet.options.get('blksize') ?? 512);
      if (clientWants === 1) put('server', { kind: 'ack', block: 0 }, now);
    } else if (head.packet.kind === 'data') {
      if (head.packet.block === clientWants && !clientDone) {
        received.push(head.packet.data);
        clientDone = head.packet.data.length < blockSize;
        clientWants++;
      }
      // As many real clients do: every DATA that is not from the future is acknowledged, duplicates too. That is the apprentice's half of the trap.
      if (head.packet.block < clientWants) put('server', { kind: 'ack', block: head.packet.block }, now);
    }
  }
  return { received: Buffer.concat(received), clientDone, end, dataSent, advances, timerSends };
}

describe('over any network that loses, doubles and reorders', () => {
  const options = fc.constantFrom<Record<string, string>>({}, { tsize: '0' }, { blksize: '64' }, { blksize: '100', tsize: '0', timeout: '1' });
  test('the client ends with the very bytes or the server with an error, and no ACK ever sends a block twice', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4000 }), options, fc.array(fate, { maxLength: 120 }), (size, wish, fates) => {
        const bytes = bytesOf(size);
        const result = simulate(bytes, asked(wish), fates);
        expect(result.end?.kind).toBe('end');
        if (result.end?.kind !== 'end') return;
        // A server that calls it complete must have delivered; a client that is done must have it right.
        if (result.end.outcome === 'complete') expect(result.clientDone).toBe(true);
        else expect(result.end.why).toMatch(/^the client (never answered|fell silent)$/);
        if (result.clientDone) expect(result.received.equals(bytes)).toBe(true);
        else expect(Buffer.from(bytes).subarray(0, result.received.length).equals(result.received)).toBe(true);
        // Each packet left once for the ACK (or the request) that called for it, and else only when the timer said so.
        expect(result.dataSent).toBe(1 + result.advances + result.timerSends);
      }),
      { numRuns: 1000 },
    );
  });

  test('a network without loss never needs the timer, whatever it doubles', () => {
    const doubled: Fate = [{ delayMs: 1 }, { delayMs: 1 }];
    const result = simulate(bytesOf(20_000), asked({ tsize: '0' }), Array(500).fill(doubled));
    expect(result).toMatchObject({ clientDone: true, timerSends: 0, dataSent: 1 + 40 });
  });
});
