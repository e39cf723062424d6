// Threads that die: when the next one is started, and what becomes of the programs that a dead one left behind.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { libc } from '../../src/net/libc.ts';
import { createChildren } from '../../src/threads/children.ts';
import { keepAlive } from '../../src/threads/life.ts';

afterEach(() => vi.restoreAllMocks());

describe('lives', () => {
  /** Each life ends when the test says so. */
  function lives() {
    const aborter = new AbortController();
    const deaths: [why: unknown, againInMs: number][] = [];
    let end: (why: unknown) => void = () => undefined;
    let begun = 0;
    const live = (): Promise<unknown> => {
      begun++;
      return new Promise((resolve) => (end = resolve));
    };
    const over = keepAlive(live(), live, aborter.signal, (...death) => deaths.push(death));
    return { aborter, deaths, over, begun: () => begun, end: (why: unknown) => end(why) };
  }

  it('follow one another, each death after a pause twice as long, until one lives for a minute', async () => {
    const { aborter, deaths, over, begun, end } = lives();
    for (let life = 1; life <= 3; life++) {
      await vi.waitFor(() => expect(begun()).toBe(life));
      end(`death ${life}`);
      await vi.waitFor(() => expect(deaths).toHaveLength(life));
    }
    await vi.waitFor(() => expect(begun()).toBe(4));
    const now = performance.now();
    vi.spyOn(performance, 'now').mockImplementation(() => now + 61_000);
    end('old age');
    await vi.waitFor(() => expect(deaths).toHaveLength(4));
    expect(deaths).toEqual([['death 1', 100], ['death 2', 200], ['death 3', 400], ['old age', 100]]);
    aborter.abort();
    await over;
    expect(begun()).toBe(4);
  });

  it('one that cannot begin is a death like any other', async () => {
    const aborter = new AbortController();
    const deaths: unknown[] = [];
    const why = new Error('no thread can be had');
    const begin = vi.fn().mockRejectedValueOnce(why).mockReturnValue(new Promise((resolve) => aborter.signal.addEventListener('abort', resolve)));
    const over = keepAlive(Promise.resolve('the first'), begin, aborter.signal, (reason) => deaths.push(reason));
    await vi.waitFor(() => expect(begin).toHaveBeenCalledTimes(2));
    expect(deaths).toEqual(['the first', why]);
    aborter.abort();
    await over;
  });

  it('an end that was asked for is no death', async () => {
    const { aborter, deaths, over, end } = lives();
    aborter.abort();
    end('asked for');
    await over;
    expect(deaths).toEqual([]);
  });
});

describe('children', () => {
  const stateOf = (pid: number) => (existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '')[0] : 'gone');

  it.skipIf(!libc())('of a thread that died are killed with their group and leave no zombie', async () => {
    const book = createChildren();
    // Ends its children's owner without a word, as a fault would; each child has one of its own.
    const thread = new Worker(`const { spawn } = require('node:child_process'); const { parentPort } = require('node:worker_threads');
      parentPort.postMessage([1, 2, 3].map(() => spawn('sh', ['-c', 'sleep 1000 & wait'], { detached: true }).pid));`, { eval: true });
    const [pids] = (await once(thread, 'message')) as [number[]];
    for (const pid of pids) book.note(pid);
    await thread.terminate();
    // One had ended before, and nobody was there to hear of it.
    process.kill(-pids[0]!, 'SIGKILL');
    await vi.waitFor(() => expect(stateOf(pids[0]!)).toBe('Z'));
    await book.end();
    expect(pids.map(stateOf)).toEqual(['gone', 'gone', 'gone']);
  });

  it('that are over, and processes of others, are left alone', async () => {
    const book = createChildren();
    const own = spawn('sleep', ['1000'], { detached: true });
    const forget = book.note(own.pid!);
    forget();
    // A number that is somebody else's child by now, which leads a group, too.
    const between = spawn('sh', ['-c', 'setsid sleep 1000 & echo $!; exec sleep 1000'], { detached: true });
    const other = Number(String((await once(between.stdout, 'data'))[0]));
    book.note(other);
    await book.end();
    await vi.waitFor(() => expect([stateOf(own.pid!), stateOf(other)]).toEqual(['S', 'S']));
    process.kill(other, 'SIGKILL');
    for (const child of [own, between]) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
});
