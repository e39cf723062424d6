// Calls over a real MessageChannel: what crosses, what becomes of errors, and of calls whose other side goes.
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { expose, remote } from '../../src/threads/rpc.ts';

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

  function open(limits?: { readonly mostCalls: number; readonly always?: readonly (typeof METHODS)[number][] }) {
    const { port1, port2 } = new MessageChannel();
    ports.push(port1, port2);
    const logged: [object, string][] = [];
    expose<Sums, (typeof METHODS)[number]>(port1, sums, METHODS, { error: (fields: object, text: string) => void logged.push([fields, text]) } as never);
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

  it('calls in flight and later ones reject when the other side closes', async () => {
    const { there, port1 } = open();
    const flying = there.never();
    port1.close();
    await expect(flying).rejects.toThrow('has gone');
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
