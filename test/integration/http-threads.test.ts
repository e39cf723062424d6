// The machines' HTTP server in its threads: one socket for all of them, threads that die, slow and greedy clients, limits, TLS.
import { execFile, execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import { afterAll, afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { digestOfBytes } from '../../src/digest.ts';
import { makeCertificate as createCertificate } from './certificate.ts';
import { curl, dial, LOADER, openSite, say, type Site } from './front.ts';

const PORT = 8180;
const TLS_PORT = 8543;
/** Read and checked much sooner than in earnest. */
const QUICK = { requestMs: 1_500, stalledMs: 1_500, idleMs: 700, checkMs: 100 } as const;
const BIG = randomBytes(24 << 20);

const dir = mkdtempSync(join(tmpdir(), 'rackseed-tls-'));
const certificate = makeCertificate(dir, 'first');
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const TO_DISK = { kind: 'local', why: 'to disk', exit: 'exit' } as const;

/** Of this network namespace. */
const WINDOW = '/proc/sys/net/ipv4/tcp_rmem';

const sites: Site[] = [];
async function open(...args: Parameters<typeof openSite>): Promise<Site> {
  const site = await openSite({ port: PORT, ...args[0] });
  sites.push(site);
  return site;
}
afterEach(async () => {
  delete process.env.RACKSEED_SOCKETS;
  for (const site of sites.splice(0)) await site.stop();
});

const eventually = (look: () => unknown) => expect.poll(look, { timeout: 20_000, interval: 20 });
const script = (site: Site, ...args: string[]) => curl(...args, `${site.base}/script/52:54:00:00:00:01`);
const openFds = () => readdirSync('/proc/self/fd').length;

describe.each([
  ['with koffi, two threads on one socket', undefined, 2],
  ['without koffi, one thread', 'plain', 1],
])('%s', (_what, sockets, threads) => {
  const openHere = () => {
    if (sockets) process.env.RACKSEED_SOCKETS = sockets;
    return open({ threads: 2 });
  };

  it('serves scripts, loaders, blobs by range and a clone of the shipped repository', async () => {
    const site = await openHere();
    expect(site.front.workers).toHaveLength(threads);
    site.answer = async () => ({ decision: TO_DISK });
    expect((await script(site)).out.toString()).toMatch(/^#!ipxe/);
    expect((await curl(`${site.base}/loaders/undionly.kpxe`)).out.equals(LOADER)).toBe(true);
    const path = await site.publish(BIG);
    const ranged = await curl('-r', '1000000-5000000', site.base + path);
    expect(ranged.out.equals(BIG.subarray(1_000_000, 5_000_001))).toBe(true);
    const clone = join(site.dir, 'clone');
    await promisify(execFile)('git', ['clone', '-q', '--depth', '1', `${site.base}/git/post-boot.git`, clone]);
    expect(readdirSync(clone).length).toBeGreaterThan(1);
    expect(site.asked[0]).toEqual({ via: 'http', mac: '52:54:00:00:00:01', ip: '127.0.0.1', asker: 'ipxe', wants: 'script' });
  });

  it('knows by which address and port it was reached', async () => {
    const site = await openHere();
    site.answer = async () => Promise.reject(new Error('inner'));
    const { out } = await script(site);
    expect(out.toString()).toContain(`http://127.0.0.1:${PORT}/`);
    expect(out.toString()).not.toContain('inner');
    expect(site.logged.filter(({ msg }) => msg === 'script not decided' || msg === 'a call from another thread failed')).toHaveLength(2);
  });

  it('a port that is taken is PORT_UNAVAILABLE and leaves nothing open', async () => {
    const before = openFds();
    const blocker = createServer().listen(PORT, '127.0.0.1');
    await once(blocker, 'listening');
    await expect(openHere()).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: `HTTP cannot listen on 127.0.0.1:${PORT}: EADDRINUSE`, hint: expect.stringContaining('ss -ltnp') });
    await new Promise((resolve) => blocker.close(resolve));
    await eventually(openFds).toBe(before);
  });

  it("an address that is not this machine's is PORT_UNAVAILABLE", async () => {
    if (sockets) process.env.RACKSEED_SOCKETS = sockets;
    await expect(open({ listen: ['127.0.0.1', '192.0.2.7'] })).rejects.toMatchObject({ code: 'PORT_UNAVAILABLE', message: `HTTP cannot listen on 192.0.2.7:${PORT}: EADDRNOTAVAIL` });
  });

  it('a thread that dies is started anew, and what it held is served again', async () => {
    const site = await openHere();
    const path = await site.publish(BIG);
    for (let died = 1; died <= 3; died++) {
      const { socket, closed } = await dial(PORT);
      socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
      await once(socket, 'data');
      socket.pause();
      await Promise.all(site.front.workers.map((worker) => worker?.terminate()));
      socket.resume();
      await closed;
      await eventually(async () => (await curl('--max-time', '5', site.base + path)).out.equals(BIG)).toBe(true);
      await eventually(() => site.front.figures().threadRestarts).toBe(died * threads);
    }
    await eventually(() => site.front.figures().connections).toBe(0);
    expect(site.logged.filter(({ msg }) => msg === 'an HTTP thread ended, another one takes its place')).toHaveLength(3 * threads);
  });

  it('stops at once with downloads under way, and no file stays open', async () => {
    const before = openFds();
    const site = await openHere();
    const path = await site.publish(BIG);
    const clients = await Promise.all(Array.from({ length: 20 }, () => dial(PORT)));
    // All at once: while one is waited for, another could get the whole of its download.
    await Promise.all(clients.map(({ socket }) => {
      socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
      return once(socket, 'data').then(() => socket.pause());
    }));
    await site.stop();
    sites.length = 0;
    for (const { socket } of clients) socket.resume();
    await Promise.all(clients.map(({ closed }) => closed));
    expect((await curl(site.base + path)).code).toBe(7);
    await eventually(openFds).toBe(before);
  });
});

describe('a slow client', () => {
  it.each([
    ['says nothing at all', ''],
    ['stops in the head of its request', 'GET /script/x HTTP/1.1\r\nhost: x\r\n'],
    ['stops in the body', 'POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nboot'],
  ])('that %s is cut with 408', async (_what, sent) => {
    const site = await open({ limits: QUICK });
    const { socket, text, closed } = await dial(PORT);
    socket.write(sent);
    await closed;
    expect(text()).toMatch(/^HTTP\/1\.1 408 .*\r\n(.*\r\n)*content-type: text\/plain.*\r\n(.*\r\n)*\r\nREQUEST_INVALID: the request was not complete in time\n$/);
    await eventually(() => site.front.figures().cuts.slow).toBe(1);
  });

  it('that trickles its head, a byte at a time, is cut all the same', async () => {
    const site = await open({ limits: QUICK });
    const { socket, text, closed } = await dial(PORT);
    const trickle = setInterval(() => socket.write('x'), 50);
    socket.write('GET /script/x HTTP/1.1\r\nx-long: ');
    await closed;
    clearInterval(trickle);
    expect(text()).toContain(' 408 ');
    expect(site.front.figures().cuts.slow).toBe(1);
  });

  it('that is idle after an answer is let go, and that is no cut', async () => {
    const site = await open({ limits: QUICK });
    const { socket, text, closed } = await dial(PORT);
    socket.write('GET /loaders/none HTTP/1.1\r\nhost: x\r\n\r\n');
    await closed;
    expect(text()).toContain(' 404 ');
    expect(Object.values(site.front.figures().cuts)).toEqual([0, 0, 0, 0, 0]);
  });

  it.each([
    ['koffi', undefined],
    ['plain', 'plain'],
  ])('that takes no byte of a response is cut, also when it goes on talking (%s)', async (_what, sockets) => {
    if (sockets) process.env.RACKSEED_SOCKETS = sockets;
    const site = await open({ limits: { ...QUICK, requestsOfConnection: 1_000 } });
    const path = await site.publish(BIG);
    const { socket } = await dial(PORT);
    socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
    await once(socket, 'data');
    socket.pause();
    const chatter = setInterval(() => socket.write('GET /loaders/x HTTP/1.1\r\nhost: x\r\n\r\n'), 200);
    await eventually(() => site.front.figures().cuts.stalled).toBe(1);
    clearInterval(chatter);
    await eventually(() => site.front.figures().connections).toBe(0);
    // Nothing waits in the kernel for a peer that takes nothing.
    await eventually(() => execFileSync('ss', ['-Htna', 'state', 'fin-wait-1', 'sport', '=', `:${PORT}`], { encoding: 'utf8' })).toBe('');
    socket.destroy();
  });

  // In a tenth of the time: 500 KiB/s and 3 s for 50 KiB/s and 30 s. The small window keeps the kernel of the reader from taking it all at once.
  it.each([
    ['http', undefined],
    ['https', undefined],
    ['http', 'plain'],
  ])('that reads slowly gets everything (%s, %s)', { timeout: 120_000 }, async (scheme, sockets) => {
    if (sockets) process.env.RACKSEED_SOCKETS = sockets;
    const site = await open({ limits: { ...QUICK, stalledMs: 3_000 }, tls: { port: TLS_PORT, ...certificate } });
    const path = await site.publish(BIG.subarray(0, 5 << 20));
    const before = readFileSync(WINDOW, 'utf8');
    writeFileSync(WINDOW, '4096 65536 65536');
    onTestFinished(() => writeFileSync(WINDOW, before));
    const socket = scheme === 'https' ? connectTls({ host: '127.0.0.1', port: TLS_PORT, ca: certificate.cert }) : connect(PORT, '127.0.0.1');
    socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
    const got = createHash('sha256');
    let bytes = 0;
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      const body = bytes === 0 ? chunk.subarray(chunk.indexOf('\r\n\r\n') + 4) : chunk;
      got.update(body);
      bytes += chunk.length;
      await new Promise((resolve) => setTimeout(resolve, (chunk.length / (500 << 10)) * 1000));
    }
    expect(path.endsWith(got.digest('hex'))).toBe(true);
    expect(site.front.figures().cuts).toEqual({ slow: 0, stalled: 0, crowded: 0, full: 0, malformed: 0 });
  });

  it('waits as long as it takes when it is us who have nothing to send', async () => {
    const site = await open({ limits: QUICK });
    site.answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      return { decision: TO_DISK };
    };
    expect((await script(site)).out.toString()).toMatch(/^#!ipxe/);
  });
});

describe('many connections', () => {
  it('2,000 that trickle from 16 addresses do not keep others from their files, and are all cut', { timeout: 120_000 }, async () => {
    const site = await open({ threads: 2, limits: { ...QUICK, requestMs: 8_000 } });
    const slow = await Promise.all(Array.from({ length: 2_000 }, (_, n) => dial(PORT, { from: `127.0.9.${1 + (n % 16)}` })));
    for (const { socket } of slow) socket.write('GET /script/52:54:00:00:00:01 HTTP/1.1\r\nx-a: ');
    await eventually(() => site.front.figures().connections).toBe(2_000);
    const path = await site.publish(BIG);
    const fetched = await Promise.all(Array.from({ length: 8 }, () => curl(site.base + path)));
    expect(fetched.filter(({ out }) => out.equals(BIG))).toHaveLength(8);
    expect(site.front.figures().connections).toBeGreaterThanOrEqual(2_000);
    await Promise.all(slow.map(({ closed }) => closed));
    expect(site.front.figures().cuts.slow).toBe(2_000);
    await eventually(() => site.front.figures().connections).toBe(0);
  });

  it('of one peer beyond its limit are cut at once, and others are served', async () => {
    const site = await open({ threads: 1, limits: { connectionsOfPeer: 20 } });
    const greedy = await Promise.all(Array.from({ length: 30 }, () => dial(PORT, { from: '127.0.9.9' })));
    await Promise.all(greedy.slice(20).map(({ closed }) => closed));
    await eventually(() => site.front.figures().cuts.crowded).toBe(10);
    expect(site.front.figures().connections).toBe(20);
    expect((await script(site)).code).toBe(0);
    // Whoever lets one go may have another.
    greedy[0]!.socket.destroy();
    await eventually(() => site.front.figures().connections).toBe(19);
    expect((await script(site, '--interface', '127.0.9.9')).code).toBe(0);
    for (const { socket } of greedy) socket.destroy();
  });

  it('beyond all that a thread has cost as many their place, and when they go others are served', async () => {
    const site = await open({ threads: 1, limits: { connections: 10 } });
    const all = await Promise.all(Array.from({ length: 13 }, (_, n) => dial(PORT, { from: `127.0.9.${n + 1}` })));
    await eventually(() => site.front.figures().cuts.full).toBe(3);
    for (const { socket } of all) socket.destroy();
    await eventually(() => site.front.figures().connections).toBe(0);
    expect((await script(site)).code).toBe(0);
  });
});

describe('a connection that pipelines', () => {
  const MOST = 16;
  const range = (path: string, n: number) => `GET ${path} HTTP/1.1\r\nhost: x\r\nrange: bytes=${n}-\r\n\r\n`;
  /** Whoever asks has an image slot. */
  const lend = (site: Site, afterMs = 0) => {
    site.answer = async () => {
      const ticket = String(site.asked.length);
      if (afterMs > 0) await new Promise((resolve) => setTimeout(resolve, afterMs));
      return { decision: { kind: 'boot', bootSet: digestOfBytes('x') }, ticket };
    };
  };

  it('gets as many responses as it may wait for, in their order', async () => {
    const site = await open({ threads: 1 });
    lend(site);
    const path = await site.publish(BIG);
    const { socket, text } = await dial(PORT);
    const wanted = Array.from({ length: MOST }, (_, n) => BIG.subarray(n * 1_400_000, n * 1_400_000 + 300_000 + n));
    socket.write(wanted.map(({ length }, n) => `GET ${path} HTTP/1.1\r\nhost: x\r\nrange: bytes=${n * 1_400_000}-${n * 1_400_000 + length - 1}\r\n${n === MOST - 1 ? 'connection: close\r\n' : ''}\r\n`).join(''));
    await once(socket, 'close');
    let rest = Buffer.from(text(), 'latin1');
    for (const bytes of wanted) {
      const body = rest.indexOf('\r\n\r\n') + 4;
      expect(rest.subarray(0, body).toString()).toMatch(/^HTTP\/1\.1 206 /);
      expect(rest.subarray(body, body + bytes.length).equals(bytes)).toBe(true);
      rest = rest.subarray(body + bytes.length);
    }
    expect(rest).toHaveLength(0);
    await eventually(() => site.released.length).toBe(MOST);
    expect(site.front.figures().cuts.crowded).toBe(0);
  });

  // Without its own notice of the end each of these held a slot, an open file and 128 KiB for ever.
  it.each([
    ['http', 'in the first of its responses', 0, 0],
    ['https', 'in the first of its responses', 0, 0],
    ['http', 'by a reset while pumps send to it', 0, 64 << 20],
    ['http', 'before anything was decided', 300, 0],
  ])('(%s) and goes away %s gives everything back', { timeout: 60_000 }, async (scheme, _when, afterMs, cacheBytes) => {
    const ROUNDS = 10;
    const CONNECTIONS = 12;
    const fds = openFds();
    const site = await open({ threads: 1, cacheBytes, tls: { port: TLS_PORT, ...certificate } });
    lend(site, afterMs);
    const path = await site.publish(BIG);
    const idle = openFds();
    const rss = process.memoryUsage.rss();
    for (let round = 1; round <= ROUNDS; round++) {
      const sockets = Array.from({ length: CONNECTIONS }, () => (scheme === 'https' ? connectTls({ host: '127.0.0.1', port: TLS_PORT, ca: certificate.cert }) : connect(PORT, '127.0.0.1')));
      for (const socket of sockets) socket.on('error', () => undefined).write(Array.from({ length: MOST }, (_, n) => range(path, n)).join(''));
      if (afterMs === 0) for (const socket of sockets) await once(socket, 'readable');
      await eventually(() => site.asked.length).toBe(round * CONNECTIONS * MOST);
      // Both ends of a connection, and the number that a pump has for ours.
      if (cacheBytes > 0) await eventually(openFds).toBeGreaterThan(idle + 3 * CONNECTIONS);
      for (const socket of sockets) cacheBytes > 0 && socket instanceof Socket ? socket.resetAndDestroy() : socket.destroy();
    }
    await eventually(() => site.released.length).toBe(ROUNDS * CONNECTIONS * MOST);
    expect(new Set(site.released).size).toBe(ROUNDS * CONNECTIONS * MOST);
    await eventually(() => site.front.figures().connections).toBe(0);
    await eventually(openFds).toBe(idle);
    const grown = process.memoryUsage.rss() - rss;
    console.log(`${ROUNDS * CONNECTIONS * MOST} pipelined requests by ${scheme}: RSS grew by ${Math.round(grown / 2 ** 20)} MiB`);
    if (afterMs === 0 && cacheBytes === 0) expect(grown).toBeLessThan((ROUNDS * CONNECTIONS * MOST * (128 << 10)) / 2);
    expect(site.front.figures().threadRestarts).toBe(0);
    expect((await curl(site.base + path)).out.equals(BIG)).toBe(true);
    await site.stop();
    sites.length = 0;
    await eventually(openFds).toBe(fds);
  });

  it('and has more waiting than it may is cut, and what it asked beyond that is not even decided', async () => {
    const site = await open({ threads: 1 });
    lend(site, 300);
    const path = await site.publish(BIG);
    const { socket, text, closed } = await dial(PORT);
    socket.write(Array.from({ length: 200 }, (_, n) => range(path, n)).join(''));
    await closed;
    expect(text()).toBe('');
    expect(site.front.figures().cuts).toMatchObject({ crowded: 1, malformed: 0, stalled: 0 });
    await eventually(() => site.released.length).toBe(MOST);
    expect(site.asked).toHaveLength(MOST);
    expect((await curl(site.base + path)).out.equals(BIG)).toBe(true);
    expect(site.front.figures().threadRestarts).toBe(0);
  });
});

describe('what is no request', () => {
  it.each([
    ['no HTTP at all', 'hello\r\n\r\n', 400],
    ['a TLS hello on the plain port', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
    ['a head that is too long', `GET / HTTP/1.1\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431],
    ['two lengths', 'POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd', 400],
    ['a length and chunks', 'POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n', 400],
    ['a path that is no encoding', 'GET /script/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 400],
    ['a path that is too long', `GET /script/${'a'.repeat(4000)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`, 400],
    ['a method that no route has', 'BREW /script/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 400],
    ['DELETE', 'DELETE /script/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 404],
    ['OPTIONS *', 'OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n', 404],
    ['a body that is too long', `POST /enrol HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9000000\r\n\r\n`, 413],
  ])('%s is refused in a line of plain text', async (_what, sent, status) => {
    await open({ limits: QUICK });
    const answer = await say(PORT, Buffer.from(sent, 'latin1'));
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(answer).toMatch(/\r\ncontent-type: text\/plain; charset=utf-8\r\n/);
    expect(answer.slice(answer.indexOf('\r\n\r\n') + 4)).toMatch(/^[A-Z_]+: [^{}]*\n$/);
  });
});

/** Its certificate is in a file, too, for curl. */
function makeCertificate(dir: string, name: string): { readonly cert: string; readonly key: string; readonly file: string } {
  const pair = createCertificate(name);
  const file = join(dir, `${name}.crt`);
  writeFileSync(file, pair.cert);
  return { ...pair, file };
}

describe('HTTPS', () => {
  const [first, second] = [certificate, makeCertificate(dir, 'second')];
  const secure = (limits = {}) => open({ threads: 2, tls: { port: TLS_PORT, cert: first.cert, key: first.key }, limits });
  const https = `https://127.0.0.1:${TLS_PORT}`;

  it('serves the same routes to who trusts the certificate, with its own base address, beside plain HTTP', async () => {
    const site = await secure();
    const path = await site.publish(BIG);
    expect((await curl('--cacert', first.file, https + path)).out.equals(BIG)).toBe(true);
    expect((await curl(site.base + path)).out.equals(BIG)).toBe(true);
    expect((await curl(https + path)).code).toBe(60);
    site.answer = async () => Promise.reject(new Error('x'));
    expect((await curl('--cacert', first.file, `${https}/script/52:54:00:00:00:01`)).out.toString()).toContain(`${https}/`);
  });

  it('a renewed certificate is shown to new connections, and a download under way goes on', async () => {
    const site = await secure();
    const path = await site.publish(BIG);
    const slow = spawn('curl', ['-sS', '--limit-rate', '8M', '--cacert', first.file, '-o', join(dir, 'out'), https + path], { stdio: 'inherit' });
    await eventually(() => site.front.figures().connections).toBe(1);
    site.front.setTls(second);
    await eventually(async () => (await curl('--cacert', second.file, `${https}/loaders/undionly.kpxe`)).code).toBe(0);
    expect((await curl('--cacert', first.file, `${https}/loaders/undionly.kpxe`)).code).toBe(60);
    expect(await once(slow, 'close')).toEqual([0, null]);
    expect(readFileSync(join(dir, 'out')).equals(BIG)).toBe(true);
    // A thread that starts later has the new one, too.
    await Promise.all(site.front.workers.map((worker) => worker?.terminate()));
    await eventually(async () => (await curl('--cacert', second.file, `${https}/loaders/undionly.kpxe`)).code).toBe(0);
  });

  it('cuts who never ends its handshake, who talks no TLS, and who takes no byte', async () => {
    const site = await secure(QUICK);
    const silent = await dial(TLS_PORT);
    await silent.closed;
    await eventually(() => site.front.figures().cuts.slow).toBe(1);
    expect(await say(TLS_PORT, 'GET / HTTP/1.1\r\n\r\n')).not.toContain('HTTP');
    await eventually(() => site.front.figures().cuts.malformed).toBe(1);
    const path = await site.publish(BIG);
    const stalled = connectTls({ host: '127.0.0.1', port: TLS_PORT, ca: first.cert });
    stalled.on('error', () => undefined);
    await once(stalled, 'secureConnect');
    stalled.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
    await once(stalled, 'data');
    stalled.pause();
    await eventually(() => site.front.figures().cuts.stalled).toBe(1);
    stalled.destroy();
    await eventually(() => site.front.figures().connections).toBe(0);
  });

});
