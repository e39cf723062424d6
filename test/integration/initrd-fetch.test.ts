// The initrd stage's requests and download, by busybox's own nc and wget, against a server that breaks, lies and refuses.
import { execFile, execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

const LIB = new URL('../../images/common/initrd/lib/rackseed', import.meta.url).pathname;
const BLOB = randomBytes(300_000);
const DIGEST = createHash('sha256').update(BLOB).digest('hex');

let server: Server;
let base: string;
let dir: string;
let bin: string;
let asked: { method: string; url: string; headers: IncomingMessage['headers']; body: string }[];
let answer: (request: IncomingMessage, response: ServerResponse) => void;

beforeAll(async () => {
  // Inside of the test's own network namespace `lo` starts down; where it is up already, this changes nothing.
  try { execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' }); } catch { /* not ours to set, so it is up */ }
  bin = mkdtempSync(join(tmpdir(), 'rackseed-busybox-'));
  execFileSync('busybox', ['--install', '-s', bin]);
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => {
      asked.push({ method: request.method!, url: request.url!, headers: request.headers, body });
      answer(request, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(bin, { recursive: true, force: true });
});
beforeEach(() => {
  asked = [];
  dir = mkdtempSync(join(tmpdir(), 'rackseed-fetch-'));
  mkdirSync(join(dir, 'stage', 'image'), { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const blob = () => join(dir, 'stage', 'image', `${DIGEST}.squashfs`);
const part = () => `${blob()}.part`;

/** Runs the script in busybox ash with the stage's parts, its pauses cut; answers its stdout's lines. */
function ash(script: string): Promise<string[]> {
  const parts = ['say', 'cmdline', 'request', 'fetch', 'cache', 'integrity'].map((part) => `. "$LIB/${part}.sh"`).join('; ');
  const setting = `pause() { :; }; read_url "${base}"; squashfs_url=$url/blob; squashfs_digest=${DIGEST}; squashfs_size=${BLOB.length}`;
  // The static wget of Debian 12's busybox 1.35 crashes on -T; images carry the busybox of their own suite, which does not.
  const stall = execFileSync('busybox', { encoding: 'utf8' }).startsWith('BusyBox v1.35') ? { STALL: '' } : {};
  const env = { ...stall, PATH: bin, LIB, ANSWER: join(dir, 'answer'), STAGE: join(dir, 'stage'), CONSOLE: join(dir, 'console'), KMSG: join(dir, 'kmsg'), WGET_ERR: join(dir, 'wget.err') };
  return new Promise((resolve, reject) =>
    execFile(join(bin, 'ash'), ['-c', `${parts}; ${setting}; ${script}`], { env, timeout: 40_000 }, (error, stdout, stderr) => (error ? reject(new Error(stderr)) : resolve(stdout.trim().split('\n')))),
  );
}

/** Serves `content` by Range, at most `most` bytes a connection, then breaks it. */
function serve(content: Buffer, most = Infinity, ranges = true): typeof answer {
  return (request, response) => {
    const range = ranges ? /bytes=(\d+)-/.exec(request.headers.range ?? '') : null;
    const from = range ? Number(range[1]) : 0;
    const end = Math.min(content.length, from + most);
    response.writeHead(range ? 206 : 200, { 'content-length': content.length - from, ...(range ? { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` } : {}) });
    if (end === content.length) response.end(content.subarray(from));
    else response.write(content.subarray(from, end), () => setTimeout(() => request.socket.destroy(), 20));
  };
}

describe('a request', () => {
  it('carries method, path, body and token, and reads status and answer', async () => {
    answer = (_request, response) => void setTimeout(() => response.writeHead(201).end('boot 01J\ntoken abc\n'), 100);
    expect(await ash('token=secret; request POST /enrol "mac 52:54:00:12:34:56"; answered token; echo "$status"; echo "$value"')).toEqual(['201', 'abc']);
    expect(asked).toEqual([{ method: 'POST', url: '/enrol', headers: expect.objectContaining({ authorization: 'Bearer secret', 'content-length': '21' }) as unknown, body: 'mac 52:54:00:12:34:56' }]);
  });

  it.each([409, 403, 401, 404, 503])('is told %i and the reason', async (status) => {
    answer = (_request, response) => void response.writeHead(status).end('SOME_CODE: because\n');
    expect(await ash('request GET /x; echo "$status $reason"')).toEqual([`${status} SOME_CODE: because`]);
  });

  it('to nobody has status 000 and says why', async () => {
    expect(await ash('daemon_port=1; request GET /x; echo "$status"; echo "$reason"')).toEqual(['000', expect.stringContaining('refused')]);
  });

  it('whose answer is not HTTP has status 000', async () => {
    answer = (request) => void request.socket.end('rubbish\n');
    expect(await ash('request GET /x; echo "$status"')).toEqual(['000']);
  });

  it('reports a failure with its reason and without a second meaning', async () => {
    answer = (_request, response) => void response.writeHead(204).end();
    expect(await ash('token=t; boot=01J; report failed "squashfs has sha256 a&b"; echo "$?"')).toEqual(['0']);
    const query = new URL(asked[0]!.url, base).searchParams;
    expect([query.get('stage'), query.get('state'), query.get('message')]).toEqual(['root', 'failed', 'squashfs has sha256 a&b']);
  });
});

describe('the download', () => {
  it('verifies what came in one piece', async () => {
    answer = serve(BLOB);
    expect(await ash('fetch; echo "$?"')).toEqual(['0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(asked).toHaveLength(1);
  });

  it('resumes by Range after every break', async () => {
    answer = serve(BLOB, 100_000);
    expect(await ash('fetch; echo "$?"')).toEqual(['0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(asked.map(({ headers }) => headers.range)).toEqual([undefined, 'bytes=100000-', 'bytes=200000-']);
    expect(readFileSync(join(dir, 'console'), 'utf8')).toContain('rackseed: download broke at 100000 of 300000 bytes');
  });

  it('starts over at a server that knows no Range', async () => {
    writeFileSync(part(), BLOB.subarray(0, 1000));
    answer = serve(BLOB, Infinity, false);
    expect(await ash('fetch; echo "$?"')).toEqual(['0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
  });

  it('fetches wrong bytes once more, then gives up for good and names both digests', async () => {
    const wrong = Buffer.from(BLOB).fill(0, 10, 20);
    answer = serve(wrong);
    expect(await ash('fetch; echo "$?"; echo "$why"')).toEqual(['2', `squashfs has sha256 ${createHash('sha256').update(wrong).digest('hex')}, expected ${DIGEST}`]);
    expect(asked).toHaveLength(2);
    expect([existsSync(blob()), existsSync(part())]).toEqual([false, false]);
  });

  it('is right at the second time when only the first was damaged on the way', async () => {
    const wrong = serve(Buffer.from(BLOB).fill(0, 10, 20));
    answer = (request, response) => (asked.length === 1 ? wrong : serve(BLOB))(request, response);
    expect(await ash('fetch; echo "$?"')).toEqual(['0']);
  });

  it('refuses more bytes than were announced', async () => {
    answer = serve(Buffer.concat([BLOB, Buffer.from('more')]));
    expect((await ash('fetch; echo "$?"'))[0]).toBe('2');
  });

  it('ends the attempt at once when the daemon has no such file', async () => {
    answer = (_request, response) => void response.writeHead(404).end('BLOB_UNKNOWN: none\n');
    expect(await ash('fetch; echo "$?"; echo "$why"')).toEqual(['1', expect.stringMatching(/^the squashfs could not be fetched, 0 of 300000 bytes came: .*404 Not Found$/)]);
    expect(asked).toHaveLength(1);
  });

  it.each([
    ['as long as it is told', 'place 12, about 40 s, again in 17 s', 'place 12, about 40 s', '17'],
    ['without a time until its turn, while nobody knows it', 'place 3, again in 7 s', 'place 3', '7'],
    ['a minute at most', 'place 1, again in 86400 s', 'place 1', '60'],
    ['10 s where nothing is said', 'Service Unavailable', 'the server is busy', '10'],
    ['10 s where there is not even a reason', '', 'the server is busy', '10'],
    ['10 s where nonsense is said', 'place 1, again in 08 s', 'place 1', '10'],
    ['as told, and runs nothing of what it is told', 'place 1 $(touch ran) `touch ran`, again in 2 s', 'place 1 $(touch ran) `touch ran`', '2'],
  ])('waits for its turn %s, then goes on where it was', async (_how, phrase, shown, seconds) => {
    writeFileSync(part(), BLOB.subarray(0, 1000));
    // Whoever waits in a queue has not failed, however often.
    answer = (request, response) => (asked.length <= 8 ? void response.writeHead(503, phrase, { 'retry-after': '1' }).end('BUSY: every slot is taken\n') : serve(BLOB)(request, response));
    expect(await ash('sleep() { echo "$1"; }; fetch; echo "$?"')).toEqual([...Array.from({ length: 8 }, () => seconds), '0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(asked.map(({ headers }) => headers.range)).toEqual(Array.from({ length: 9 }, () => 'bytes=1000-'));
    expect(readFileSync(join(dir, 'console'), 'utf8')).toContain(`rackseed: waiting: ${shown} [`);
    expect(existsSync('ran')).toBe(false);
  });

  it('waits for its turn for as long as it has a place: a failed boot would start at the end of the queue', async () => {
    answer = (_request, response) => (asked.length <= 10 ? void response.writeHead(503, 'place 40, again in 30 s').end() : serve(BLOB)(_request, response));
    expect(await ash('sleep() { :; }; LONGEST_WAIT=60; fetch; echo "$?"')).toEqual(['0']);
    expect(readFileSync(join(dir, 'console'), 'utf8').match(/waiting: place 40/g)).toHaveLength(10);
  });

  it('gives up for good when a server that says no place was busy for half an hour', async () => {
    answer = (_request, response) => void response.writeHead(503, 'Service Unavailable').end();
    const lines = await ash('sleep() { echo "$1"; }; fetch; echo "$?"; echo "$why"');
    expect(lines).toEqual([...Array.from({ length: 180 }, () => '10'), '2', 'the server was busy for 30 min']);
  });

  it('ends the attempt after six tries that brought nothing', async () => {
    answer = (request) => void request.socket.destroy();
    expect((await ash('fetch; echo "$?"'))[0]).toBe('1');
    expect(asked).toHaveLength(6);
  });
});

describe('the download from a public base', () => {
  const PUBLIC = 'squashfs_fallbacks=$squashfs_url; squashfs_url=$url/public/blob; fetch; echo "$?"';
  /** What the public server does; the daemon behind it has the right bytes. */
  const publicly = (there: typeof answer): void => {
    answer = (request, response) => (request.url!.startsWith('/public/') ? there : serve(BLOB))(request, response);
  };
  const urls = () => asked.map(({ url }) => url);

  it('asks the daemon for nothing while the other server delivers, breaks included', async () => {
    publicly(serve(BLOB, 100_000));
    expect(await ash(PUBLIC)).toEqual(['0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(urls()).toEqual(['/public/blob', '/public/blob', '/public/blob']);
  });

  it.each([
    ['has no such file', (_request: IncomingMessage, response: ServerResponse) => void response.writeHead(404).end()],
    ['is busy', (_request: IncomingMessage, response: ServerResponse) => void response.writeHead(503).end()],
    ['cuts each connection', (request: IncomingMessage) => void request.socket.destroy()],
  ])('goes on at the daemon when the other server %s', async (_what, there) => {
    publicly(there);
    expect(await ash(PUBLIC)).toEqual(['0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(urls()).toEqual(['/public/blob', '/blob']);
    expect(readFileSync(join(dir, 'console'), 'utf8')).toContain('asking the daemon itself');
  });

  it('goes on at the daemon when nobody listens at the other address, and keeps what it has', async () => {
    answer = serve(BLOB);
    writeFileSync(part(), BLOB.subarray(0, 1000));
    expect(await ash(PUBLIC.replace('$url/public', 'http://127.0.0.1:9'))).toEqual(['0']);
    expect(asked.map(({ url, headers }) => [url, headers.range])).toEqual([['/blob', 'bytes=1000-']]);
  });

  it('takes the daemon\'s bytes when the other server\'s are wrong', async () => {
    publicly(serve(Buffer.from(BLOB).fill(0, 10, 20)));
    expect(await ash(PUBLIC)).toEqual(['0']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(urls()).toEqual(['/public/blob', '/blob']);
  });
});

describe('the download with several places to go to', () => {
  const SEVERAL = 'squashfs_fallbacks="$url/blob $url/third"; squashfs_url=$url/public/blob; fetch; echo "$?"; echo "$why"';
  const gone = (_request: IncomingMessage, response: ServerResponse) => void response.writeHead(404).end();

  it('asks each in its order, and what comes last is resumed', async () => {
    const last = serve(BLOB, 200_000);
    answer = (request, response) => (request.url === '/third' ? last : gone)(request, response);
    expect(await ash(SEVERAL)).toEqual(['0', expect.any(String)]);
    expect(asked.map(({ url }) => url)).toEqual(['/public/blob', '/blob', '/third', '/third']);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
  });

  it('says what the last one said when none has it', async () => {
    answer = gone;
    expect(await ash(SEVERAL)).toEqual(['1', expect.stringContaining('404 Not Found')]);
    expect(asked).toHaveLength(3);
  });
});

describe('where the kernel verifies each block', () => {
  const LAZY = 'lazily() { :; }; fetch; echo "$?"; echo "$why"';

  it('nothing is read before the mount: only the size is asked for', async () => {
    const wrong = Buffer.from(BLOB).fill(0, 10, 20);
    answer = serve(wrong);
    expect((await ash(LAZY))[0]).toBe('0');
    expect(readFileSync(blob()).equals(wrong)).toBe(true);
    expect(readFileSync(join(dir, 'console'), 'utf8')).toContain('its blocks are verified as they are read');
  });

  it('more bytes than announced are refused', async () => {
    answer = serve(Buffer.concat([BLOB, Buffer.from('more')]));
    expect(await ash(LAZY)).toEqual(['2', 'squashfs has 300004 bytes, expected 300000']);
  });

  it('a whole one that is there, on a disk, is not fetched', async () => {
    writeFileSync(blob(), BLOB);
    expect((await ash(LAZY))[0]).toBe('0');
    expect(asked).toHaveLength(0);
  });
});

describe('a squashfs that is there already, as on a disk', () => {
  it('is verified in full where nothing verifies its blocks, and fetched again when it is wrong', async () => {
    writeFileSync(blob(), Buffer.from(BLOB).fill(0, 10, 20));
    answer = serve(BLOB);
    expect(await ash('fetch; echo "$?"')).toEqual(['0']);
    expect(asked).toHaveLength(1);
    expect(readFileSync(blob()).equals(BLOB)).toBe(true);
    expect(await ash('fetch; echo "$?"')).toEqual(['0']);
    expect(asked).toHaveLength(1);
  });

  it('needs no memory for itself', async () => {
    writeFileSync(join(dir, 'meminfo'), 'MemAvailable:  200000 kB\n');
    expect(await ash(`MEMINFO=${join(dir, 'meminfo')}; squashfs_size=99999999999; image_dir=$STAGE/disk; memory; echo "$?"`)).toEqual(['0']);
  });
});

describe('the memory check', () => {
  it.each([
    ['enough', 301_000, 0, ['0']],
    ['too little', 200_000, 0, ['2', 'not enough memory: 195 MiB are available, the squashfs takes 101 MiB and 192 MiB must stay free']],
    ['too little for the whole, but most of it is here already', 250_000, 100 * 1048576, ['0']],
  ] as const)('%s', async (_name, available, have, expected) => {
    writeFileSync(join(dir, 'meminfo'), `MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable:  ${available} kB\nBuffers: 0 kB\n`);
    const lines = await ash(`MEMINFO=${join(dir, 'meminfo')}; squashfs_size=${100 * 1048576 + 1}; truncate -s ${have} "$STAGE/image/$squashfs_digest.squashfs.part"; memory; echo "$?"; echo "$why"`);
    expect(lines.filter(Boolean)).toEqual(expected);
  });
});
