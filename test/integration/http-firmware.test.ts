// The blob and loader routes as firmware asks: the heads of iPXE, GRUB and EDK2 HTTP Boot to the letter, and what each of them needs of an answer.
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { curl, dial, LOADER, openSite, say, type Site } from './front.ts';

const PORT = 8184;
const HOST = `127.0.0.1:${PORT}`;
const KERNEL = Buffer.from(Uint8Array.from({ length: 3_000_017 }, (_, i) => (i * 13 + (i >> 10)) & 255));

/** Captured from the ROM of Debian 12's QEMU; it says both fields before its Host. */
const ipxe = (path: string) => `GET ${path} HTTP/1.1\r\nConnection: keep-alive\r\nUser-Agent: iPXE/1.0.0+git-20190125.36a4c85-5.1\r\nHost: ${HOST}\r\n\r\n`;
/** 2.06 as its net/http.c writes it: no Connection, no Accept; each seek is another connection, with a Range. */
const grub = (path: string, from?: number) => `GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\nUser-Agent: GRUB 2.06\r\n${from === undefined ? '' : `Range: bytes=${from}-\r\n`}\r\n`;
/** As its HttpBootDxe writes it: HEAD for the size, then GET, on one connection. */
const edk2 = (method: 'HEAD' | 'GET', path: string) => `${method} ${path} HTTP/1.1\r\nHost: ${HOST}\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n`;

let site: Site;
let kernel: string;
beforeAll(async () => {
  site = await openSite({ port: PORT, threads: 1 });
  kernel = await site.publish(KERNEL);
});
afterAll(() => site.stop());

interface Response {
  readonly status: string;
  /** As they were written. */
  readonly fields: readonly (readonly [name: string, value: string])[];
  readonly body: Buffer;
}

/** One connection; `get` writes a request and reads to the end that `Content-Length` says. */
async function connect(): Promise<{ get(request: string): Promise<Response>; destroy(): void }> {
  const { socket } = await dial(PORT);
  socket.removeAllListeners('data');
  let got = Buffer.alloc(0);
  const until = async (enough: () => boolean) => {
    while (!enough()) got = Buffer.concat([got, (await once(socket, 'data'))[0] as Buffer]);
  };
  return {
    async get(request) {
      socket.write(request);
      await until(() => got.includes('\r\n\r\n'));
      const end = got.indexOf('\r\n\r\n') + 4;
      const [status = '', ...lines] = got.toString('latin1', 0, end - 4).split('\r\n');
      const fields = lines.map((line) => line.split(': ') as [string, string]);
      const length = request.startsWith('HEAD') ? 0 : Number(fields.find(([name]) => name.toLowerCase() === 'content-length')?.[1]);
      await until(() => got.length >= end + length);
      const body = got.subarray(end, end + length);
      got = got.subarray(end + length);
      return { status, fields, body };
    },
    destroy: () => void socket.destroy(),
  };
}

/** A reader that compares names with memcmp. */
const exactly = ({ fields }: Response, name: string) => fields.find(([one]) => one === name)?.[1];

describe.each([
  ['blob', (): string => kernel, KERNEL],
  ['loader', (): string => '/loaders/undionly.kpxe', LOADER],
] as const)('a %s', (_what, path, bytes) => {
  it('is fetched by iPXE, and the next one on the same connection', async () => {
    const client = await connect();
    for (let n = 0; n < 2; n++) {
      const response = await client.get(ipxe(path()));
      expect(response.status).toBe('HTTP/1.1 200 OK');
      expect(response.body.equals(bytes)).toBe(true);
      // It takes the connection for kept alive when it is told so, and only then.
      expect(response.fields.find(([name]) => name.toLowerCase() === 'connection')?.[1]).toBe('keep-alive');
      expect(response.fields.some(([name]) => name.toLowerCase() === 'transfer-encoding')).toBe(false);
    }
    client.destroy();
  });

  it('is fetched by GRUB, which knows the size by "Content-Length: " in these very letters, and "HTTP/1.1 " before the status', async () => {
    const client = await connect();
    const response = await client.get(grub(path()));
    expect(response.status).toMatch(/^HTTP\/1\.1 200 /);
    expect(exactly(response, 'Content-Length')).toBe(String(bytes.length));
    expect(response.fields.filter(([name]) => name.toLowerCase() === 'content-length')).toHaveLength(1);
    expect(response.fields.some(([name]) => name.toLowerCase() === 'transfer-encoding')).toBe(false);
    expect(response.body.equals(bytes)).toBe(true);
    client.destroy();
  });

  it('is fetched by EDK2: its size by HEAD, then its bytes, on one connection', async () => {
    const client = await connect();
    const head = await client.get(edk2('HEAD', path()));
    expect([head.status, exactly(head, 'Content-Length'), head.body.length]).toEqual(['HTTP/1.1 200 OK', String(bytes.length), 0]);
    const response = await client.get(edk2('GET', path()));
    expect([response.status, exactly(response, 'Content-Length')]).toEqual(['HTTP/1.1 200 OK', String(bytes.length)]);
    expect(response.body.equals(bytes)).toBe(true);
    client.destroy();
  });
});

describe('GRUB', () => {
  it('that seeks in a blob gets the rest from there, each time by another connection that it resets', async () => {
    for (const from of [0, 1, 1_048_576, 2_999_999, KERNEL.length - 1]) {
      const client = await connect();
      const response = await client.get(grub(kernel, from));
      expect([response.status, exactly(response, 'Content-Length')]).toEqual(['HTTP/1.1 206 Partial Content', String(KERNEL.length - from)]);
      expect(response.body.equals(KERNEL.subarray(from))).toBe(true);
      client.destroy();
    }
  });

  it('that asks for nothing that is there is told 404 in the first line', async () => {
    expect(await say(PORT, grub(`/blobs/sha256/${'0'.repeat(64)}`).replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'))).toMatch(/^HTTP\/1\.1 404 /);
  });

  it('and all others find no length twice, in a part, without a body, and in a refusal', async () => {
    for (const args of [['-r', '5-9', site.base + kernel], ['-I', site.base + kernel], [`${site.base}/script/x`], [`${site.base}/nothing`]]) {
      const { out } = await curl('-i', ...args);
      expect(out.toString('latin1').split('\r\n\r\n')[0]!.match(/^content-length:/gim), String(args)).toHaveLength(1);
    }
  });
});
