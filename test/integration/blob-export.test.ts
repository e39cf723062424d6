// `rackseed blob export` and the nginx that we document for what it lays out: real files, Debian's nginx, curl.
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { exportBlobs } from '../../src/commands/blob.ts';
import { digestOfBytes, hexOf, type Digest } from '../../src/digest.ts';
import { createImageStore, imageDigest, type ImageManifest } from '../../src/images/manifest.ts';
import { createBlobStore, type BlobStore } from '../../src/store/blobs.ts';
import { NGINX, NGINX_PORT, NO_NGINX, startNginx, type Nginx } from './nginx.ts';

const squashfs = Buffer.from(Uint8Array.from({ length: 5_000_000 }, (_, i) => (i * 11 + (i >> 7)) & 255));
const [kernel, initrd, artifact] = [Buffer.from('a kernel'), Buffer.from('an initrd'), Buffer.from('an artifact')];

let dir: string;
let state: string;
let blobs: BlobStore;
beforeAll(() => {
  if (process.getuid?.() === 0) try { execFileSync('ip', ['link', 'set', 'lo', 'up'], { stdio: 'ignore' }); } catch { /* up already, or not ours to set */ }
});
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-export-'));
  state = join(dir, 'state');
  await makeState();
  return () => rmSync(dir, { recursive: true, force: true });
});

async function makeState(): Promise<void> {
  blobs = createBlobStore(state);
  const refs = await Promise.all([kernel, initrd, squashfs].map((bytes) => blobs.add(Readable.from([bytes]))));
  await blobs.add(Readable.from([artifact]));
  const files = { arch: 'amd64', kernel: { ...refs[0]!, version: '6.1' }, initrds: [refs[1]!], squashfs: { ...refs[2]!, chunkSize: 4 << 20, chunks: [] } } as const;
  const manifest: ImageManifest = { name: 'debian', digest: imageDigest(files), ...files, packages: [], input: digestOfBytes('input'), builder: 'test', builtAt: 1 };
  await createImageStore(state).put(manifest);
}
const out = () => join(dir, 'out');
const at = (digest: Digest) => join(out(), 'blobs', 'sha256', hexOf(digest));
const names = (root: string) => readdirSync(join(root, 'blobs', 'sha256')).sort();
const ofImage = [kernel, initrd, squashfs].map(digestOfBytes).map(hexOf).sort();

describe('an export', () => {
  it("holds the images' files whole, and nothing else", async () => {
    const exported = await exportBlobs({ stateDir: state, dir: out() });
    expect(exported.map(({ how }) => how)).toEqual(['copied', 'copied', 'copied']);
    expect(names(out())).toEqual(ofImage);
    expect(readFileSync(at(digestOfBytes(squashfs))).equals(squashfs)).toBe(true);
  });

  it('again only adds: what is there stays as it is, and a file that was cut short is made whole', async () => {
    await exportBlobs({ stateDir: state, dir: out() });
    const before = statSync(at(digestOfBytes(squashfs))).ino;
    writeFileSync(at(digestOfBytes(kernel)), 'cut');
    const exported = await exportBlobs({ stateDir: state, dir: out(), all: true });
    expect(Object.fromEntries(exported.map(({ digest, how }) => [digest, how]))).toEqual({
      [digestOfBytes(kernel)]: 'copied', [digestOfBytes(initrd)]: 'there', [digestOfBytes(squashfs)]: 'there', [digestOfBytes(artifact)]: 'copied',
    });
    expect(statSync(at(digestOfBytes(squashfs))).ino).toBe(before);
    expect(readFileSync(at(digestOfBytes(kernel))).equals(kernel)).toBe(true);
  });

  it('--link takes no second set of bytes', async () => {
    const exported = await exportBlobs({ stateDir: state, dir: out(), link: true });
    expect(exported.map(({ how }) => how)).toEqual(['linked', 'linked', 'linked']);
    expect(statSync(at(digestOfBytes(squashfs))).ino).toBe(statSync(blobs.path(digestOfBytes(squashfs))).ino);
    expect(names(out())).toEqual(ofImage);
  });

  it('leaves out what is rotten or missing, says so, and brings all the rest', async () => {
    rmSync(blobs.path(digestOfBytes(kernel)));
    rmSync(blobs.path(digestOfBytes(initrd)));
    writeFileSync(blobs.path(digestOfBytes(initrd)), 'an  rotten');
    await expect(exportBlobs({ stateDir: state, dir: out() })).rejects.toMatchObject({ code: 'BLOB_UNKNOWN', message: expect.stringMatching(/no such blob.*its content has the digest/) as unknown });
    expect(names(out())).toEqual([hexOf(digestOfBytes(squashfs))]);
  });

  it('says what to do about a directory that cannot be written', async () => {
    writeFileSync(out(), 'a file');
    await expect(exportBlobs({ stateDir: state, dir: out() })).rejects.toMatchObject({ code: 'STORE_UNUSABLE' });
  });
});

describe.skipIf(!NGINX)(`Debian's nginx with our configuration${NGINX ? '' : `: ${NO_NGINX}`}`, () => {
  const path = `/blobs/sha256/${hexOf(digestOfBytes(squashfs))}`;
  let nginx: Nginx | undefined;
  let root: string;

  const curl = (...args: readonly string[]) =>
    new Promise<{ status: number; headers: string; body: Buffer }>((resolve, reject) => {
      execFile('curl', ['-sS', '-i', '--noproxy', '*', '--path-as-is', '--max-time', '20', ...args], { encoding: 'buffer', maxBuffer: 1 << 26 }, (error, stdout) => {
        if (error) return reject(error);
        const split = stdout.indexOf('\r\n\r\n');
        const headers = stdout.subarray(0, split).toString();
        resolve({ status: Number(headers.split(' ')[1]), headers, body: stdout.subarray(split + 4) });
      });
    });
  const get = (what: string, ...args: readonly string[]) => curl(...args, `http://127.0.0.1:${NGINX_PORT}${what}`);
  const field = (headers: string, name: string) => new RegExp(`^${name}: (.*?)\\r?$`, 'im').exec(headers)?.[1];

  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), 'rackseed-nginx-'));
    state = join(root, 'state');
    await makeState();
    const files = join(root, 'files');
    await exportBlobs({ stateDir: state, dir: files });
    // What must not come out.
    writeFileSync(join(root, 'secret'), 'secret');
    writeFileSync(join(files, 'blobs', 'sha256', `${'a'.repeat(64)}.new`), 'half');
    symlinkSync(join(root, 'secret'), join(files, 'blobs', 'sha256', 'b'.repeat(64)));
    nginx = await startNginx(root, files);
  });
  afterAll(async () => {
    await nginx?.stop();
    rmSync(root, { recursive: true, force: true });
  });

  it('sends the bytes with what a cache and a resuming client need', async () => {
    const { status, headers, body } = await get(path);
    expect([status, body.equals(squashfs)]).toEqual([200, true]);
    expect(field(headers, 'etag')).toMatch(/^"[0-9a-f]+-[0-9a-f]+"$/);
    expect([field(headers, 'content-length'), field(headers, 'accept-ranges'), field(headers, 'content-type'), field(headers, 'cache-control')]).toEqual([
      String(squashfs.length), 'bytes', 'application/octet-stream', 'public, max-age=31536000, immutable',
    ]);
  });

  it('answers HEAD with the length and no bytes', async () => {
    const { status, headers, body } = await get(path, '-I');
    expect([status, field(headers, 'content-length'), body.length]).toEqual([200, String(squashfs.length), 0]);
  });

  it('honours Range, If-Range and If-None-Match by its ETag', async () => {
    const etag = field((await get(path, '-I')).headers, 'etag')!;
    const part = await get(path, '-r', '4000000-', '-H', `If-Range: ${etag}`);
    expect([part.status, field(part.headers, 'content-range'), part.body.equals(squashfs.subarray(4_000_000))]).toEqual([206, `bytes 4000000-4999999/${squashfs.length}`, true]);
    expect((await get(path, '-r', '4000000-', '-H', 'If-Range: "another"')).status).toBe(200);
    expect((await get(path, '-H', `If-None-Match: ${etag}`)).status).toBe(304);
    expect((await get(path, '-r', `${squashfs.length}-`)).status).toBe(416);
  });

  it('has the same ETag on every server that an export filled, so that a download may go on elsewhere', async () => {
    const other = join(root, 'other');
    await sleep(1100);
    await exportBlobs({ stateDir: state, dir: other });
    const [a, b] = [join(root, 'files'), other].map((one) => statSync(join(one, path)));
    expect([a!.mtimeMs, a!.size]).toEqual([b!.mtimeMs, b!.size]);
  });

  it('is resumed by busybox wget, as in the initrd stage', async () => {
    const file = join(root, 'resumed');
    writeFileSync(file, squashfs.subarray(0, 1_234_567));
    await new Promise<void>((resolve, reject) => execFile('busybox', ['wget', '-q', '-c', '-O', file, `http://127.0.0.1:${NGINX_PORT}${path}`], (error) => (error ? reject(error) : resolve())));
    expect(readFileSync(file).equals(squashfs)).toBe(true);
  });

  it.each(['/', '/blobs/', '/blobs/sha256/', `${path}.new`, `/blobs/sha256/${'a'.repeat(64)}.new`, `/blobs/sha256/${'b'.repeat(64)}`, '/blobs/sha256/../../../secret', '/blobs/sha256/..%2f..%2f..%2fsecret', '/../secret', path.toUpperCase()])('gives nothing for %s', async (what) => {
    const { status, body } = await get(what);
    expect(status).toBeGreaterThanOrEqual(400);
    expect(body.toString()).not.toMatch(/secret|half/);
  });

  it('takes no other method', async () => {
    expect((await get(path, '-X', 'PUT', '-d', 'x')).status).toBe(403);
    expect((await get(path, '-X', 'DELETE')).status).toBe(403);
  });
});
