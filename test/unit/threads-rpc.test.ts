// Calls over a real MessageChannel: what crosses, what becomes of errors, and of calls whose other side goes.
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { expose, remote, type RemoteLimits } from '../../src/threads/rpc.ts';

interface Sums {
  add(a: number, b: number): Promise<number>;
  whole(value: unknown): Promise<unknown>;
  fail(how: 'app' | 'other' | 'uncloneable'): Promise<unknown>;
  never(): Promise<void>;
  hidden(): Promise<string>;
  notAsync: number;
}

const sums: Sums = {
  add: async (a, b) => a + b,
  whole: async (value) => value,
  async fail(how) {
    if (how === 'app') throw new AppError('NODE_UNKNOWN', 'no node n9', 'did you mean n1?', new Error('inner'));
    if (how === 'other') throw new Error('secret inner message');
    return () => 1;
  },
  never: () => new Promise(() => undefined),
  hidden: async () => 'hidden',
  notAsync: 1,
};

const METHODS = ['add', 'whole', 'fail', 'never'] as const;

describe('calls between threads', () => {
  const ports: MessagePort[] = [];
  afterEach(() => ports.splice(0).forEach((port) => port.close()));

  function open(limits?: RemoteLimits<(typeof METHODS)[number]>, object = sums) {
    const { port1, port2 } = new MessageChannel();
    ports.push(port1, port2);
    const logged: [object, string][] = [];
    expose<Sums, (typeof METHODS)[number]>(port1, object, METHODS, { error: (fields: object, text: string) => void logged.push([fields, text]) } as never);
    return { there: remote<Sums, (typeof METHODS)[number]>(port2, METHODS, limits), port1, port2, logged };
  }

  it('answer each its own, also many at once', async () => {
    const { there } = open();
    const answers = await Promise.all(Array.from({ length: 500 }, (_, i) => there.add(i, 1)));
    expect(answers).toEqual(Array.from({ length: 500 }, (_, i) => i + 1));
  });

  it('carry undefined, nested values and shared memory', async () => {
    const { there } = open();
    const bytes = new Uint8Array(new SharedArrayBuffer(4));
    const back = (await there.whole({ a: [1, undefined], bytes })) as { a: unknown[]; bytes: Uint8Array };
    expect(back.a).toEqual([1, undefined]);
    back.bytes[0] = 7;
    expect(bytes[0]).toBe(7);
    expect(await there.whole(undefined)).toBeUndefined();
  });

  it('an AppError crosses with code, message and hint, without its cause', async () => {
    const error: unknown = await open().there.fail('app').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(AppError);
    expect(error).toMatchObject({ code: 'NODE_UNKNOWN', message: 'no node n9', hint: 'did you mean n1?' });
    expect((error as Error).cause).toBeUndefined();
  });

  it.each(['other', 'uncloneable'] as const)('%s: any other error is a BUG there and a line in the log here', async (how) => {
    const { there, logged } = open();
    const error: unknown = await there.fail(how).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'BUG' });
    expect((error as Error).message).not.toContain('secret');
    expect(logged).toMatchObject([[{ method: 'fail', err: expect.any(Error) }, 'a call from another thread failed']]);
  });

  it('only what was named can be called', async () => {
    const { port2, logged } = open();
    const reply = new Promise((resolve) => port2.once('message', resolve));
    port2.postMessage({ id: 9, method: 'hidden', args: [] });
    expect(await reply).toMatchObject({ id: 9, error: { code: 'BUG' } });
    expect(logged).toHaveLength(1);
  });

  it('arguments that cannot be cloned reject, and the next call works', async () => {
    const { there } = open();
    await expect(there.whole(() => 1)).rejects.toMatchObject({ code: 'BUG' });
    expect(await there.add(1, 2)).toBe(3);
  });

  it('more than so many in flight are BUSY at once, but for those that are always taken', async () => {
    const { there, port1 } = open({ mostCalls: 2, always: ['whole'] });
    const waiting = [there.never(), there.never()].map((one) => one.catch((error: unknown) => error));
    await expect(there.add(1, 1)).rejects.toMatchObject({ code: 'BUSY' });
    // Calls that give back what others took are for always.
    expect(await there.whole('slot-1')).toBe('slot-1');
    port1.close();
    expect(await Promise.all(waiting)).toMatchObject([{ code: 'BUG' }, { code: 'BUG' }]);
  });

  /** Its calls are open until they are let go, in the order in which they came. */
  function gated() {
    const begun: (() => void)[] = [];
    return { begun, object: { ...sums, add: (a: number, b: number) => new Promise<number>((resolve) => void begun.push(() => resolve(a + b))) } };
  }

  it('no more than so many are with the other side, the others follow in their order as answers come', async () => {
    const { begun, object } = gated();
    const { there } = open({ mostPosted: 3 }, object);
    const answers: number[] = [];
    const all = Array.from({ length: 10 }, (_, i) => there.add(i, 0).then((sum) => void answers.push(sum)));
    await expect.poll(() => begun.length).toBe(3);
    for (let done = 0; done < 10; done++) {
      begun[done]!();
      await expect.poll(() => begun.length).toBe(Math.min(10, done + 4));
    }
    await Promise.all(all);
    expect(answers).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it('those that are always taken wait for nobody, and nobody for them', async () => {
    const { begun, object } = gated();
    const { there } = open({ mostPosted: 1, mostCalls: 5, always: ['whole'] }, object);
    const waiting = Array.from({ length: 5 }, (_, i) => there.add(i, 0));
    await expect(there.add(9, 9)).rejects.toMatchObject({ code: 'BUSY' });
    expect(await Promise.all(Array.from({ length: 50 }, (_, i) => there.whole(i)))).toHaveLength(50);
    expect(begun.length).toBeLessThanOrEqual(1);
    for (let i = 0; i < 5; i++) {
      await expect.poll(() => begun.length).toBe(i + 1);
      begun[i]!();
    }
    expect(await Promise.all(waiting)).toEqual([0, 1, 2, 3, 4]);
  });

  it('arguments of one that waits, and cannot be cloned, reject it and hold up nobody', async () => {
    const { begun, object } = gated();
    const { there } = open({ mostPosted: 1 }, object);
    const first = there.add(1, 0);
    const broken = expect(there.whole(() => 1)).rejects.toMatchObject({ code: 'BUG' });
    const last = there.whole('last');
    await expect.poll(() => begun.length).toBe(1);
    begun[0]!();
    await broken;
    expect([await first, await last]).toEqual([1, 'last']);
  });

  it('a flood of them from two threads leaves the loop its turns', async () => {
    const CALLS = 1500;
    let answered = 0;
    const busy = {
      ...sums,
      // 0.1 ms each, half of it after its promises.
      async add(a: number, b: number) {
        burn(0.05);
        await Promise.resolve();
        await Promise.resolve();
        burn(0.05);
        answered++;
        return a + b;
      },
    };
    let [before, most, over] = [0, 0, false];
    (function turn(): void {
      most = Math.max(most, answered - before);
      before = answered;
      if (!over) setImmediate(turn);
    })();
    const both = [open({ mostPosted: CALLS }, busy), open({}, busy)];
    await Promise.all(both.flatMap(({ there }) => Array.from({ length: CALLS }, () => there.add(1, 1))));
    over = true;
    // 2 ms hold 20 of them and the one in which they end; all at once it would be hundreds.
    expect(answered).toBe(2 * CALLS);
    expect(most).toBeLessThanOrEqual(22);
  });

  it('calls in flight, those that wait for their turn and later ones reject when the other side closes', async () => {
    const { there, port1 } = open({ mostPosted: 1 });
    const flying = [there.never(), there.never(), there.add(1, 1)].map((one) => expect(one).rejects.toThrow('has gone'));
    port1.close();
    await Promise.all(flying);
    await expect(there.add(1, 1)).rejects.toThrow('has gone');
  });

  it('calls in flight reject when the thread on the other side is ended', async () => {
    const { port1, port2 } = new MessageChannel();
    const worker = new Worker('require("node:worker_threads").workerData.on("message", () => undefined)', { eval: true, workerData: port1, transferList: [port1] });
    const there = remote<Sums, 'never'>(port2, ['never']);
    const flying = expect(there.never()).rejects.toThrow('has gone');
    await new Promise((resolve) => worker.once('online', resolve));
    await worker.terminate();
    await flying;
  });
});

function burn(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}
