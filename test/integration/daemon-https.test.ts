// A whole daemon with HTTPS: the certificate of rackseed.yaml, its renewal by a reload, what /readyz says of a broken one, and the figures of HTTP.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readSettings } from '../../src/config/settings.ts';
import { startDaemon, type Daemon } from '../../src/daemon.ts';
import { createLog } from '../../src/log.ts';
import { curl } from './front.ts';

const [PORT, TLS_PORT] = [8182, 8544];
const SCRIPT = `https://127.0.0.1:${TLS_PORT}/script/52:54:00:00:00:01`;
let dir: string;
let daemon: Daemon;
const at = (name: string) => join(dir, name);

const api = (path: string) =>
  new Promise<string>((resolve, reject) => {
    request({ socketPath: at('state/api.sock'), path, agent: false }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () => resolve(text));
    })
      .on('error', reject)
      .end();
  });

const use = (name: string): void => {
  for (const end of ['crt', 'key']) copyFileSync(at(`${name}.${end}`), at(`live.${end}`));
};

beforeAll(async () => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  dir = mkdtempSync(join(tmpdir(), 'rackseed-https-'));
  mkdirSync(at('boot-profiles'));
  for (const name of ['first', 'second']) {
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', at(`${name}.key`), '-out', at(`${name}.crt`)], { stdio: 'ignore' });
  }
  use('first');
  writeFileSync(at('rackseed.yaml'), JSON.stringify({ stateDir: 'state', http: { listen: ['127.0.0.1'], port: PORT, threads: 2, tls: { port: TLS_PORT, cert: 'live.crt', key: 'live.key' } }, api: { port: 0 }, user: null }));
  daemon = await startDaemon(readSettings(at('rackseed.yaml')), createLog('silent'));
});
afterAll(async () => {
  await daemon.stop();
  rmSync(dir, { recursive: true, force: true });
});

it('the same script comes by both, and by HTTPS only to who trusts the certificate', async () => {
  const [plain, secure] = await Promise.all([curl(`http://127.0.0.1:${PORT}/script/52:54:00:00:00:01`), curl('--cacert', at('first.crt'), SCRIPT)]);
  expect(secure.out.toString()).toMatch(/^#!ipxe/);
  expect(plain.out.toString()).toMatch(/^#!ipxe/);
  expect((await curl('--cacert', at('second.crt'), SCRIPT)).code).toBe(60);
});

it('a reload takes a renewed certificate, and a broken one leaves the old and shows in /readyz', async () => {
  use('second');
  await daemon.reload('test');
  await expect.poll(async () => (await curl('--cacert', at('second.crt'), SCRIPT)).code, { timeout: 10_000 }).toBe(0);
  copyFileSync(at('first.key'), at('live.key'));
  await daemon.reload('test');
  expect((await curl('--cacert', at('second.crt'), SCRIPT)).code).toBe(0);
  expect(JSON.parse(await api('/readyz'))).toMatchObject({ ready: true, reasons: [{ what: expect.stringContaining('live.key is not the key of'), fatal: false }] });
});

it('the figures of HTTP are in /metrics', async () => {
  expect((await curl(`http://127.0.0.1:${PORT}/nothing`)).code).toBe(0);
  const count = (text: string, what: string) => Number(new RegExp(`^${what.replace(/[{}"]/g, '\\$&')} (\\d+)$`, 'm').exec(text)?.[1]);
  await expect.poll(async () => count(await api('/metrics'), 'rackseed_http_responses_total{class="4xx"}')).toBe(1);
  const text = await api('/metrics');
  expect(count(text, 'rackseed_http_responses_total{class="2xx"}')).toBeGreaterThanOrEqual(3);
  expect(count(text, 'rackseed_http_sent_bytes_total')).toBeGreaterThan(300);
  for (const why of ['slow', 'stalled', 'crowded', 'full', 'malformed']) expect(count(text, `rackseed_http_cut_connections_total{why="${why}"}`)).toBeGreaterThanOrEqual(0);
  expect(count(text, 'rackseed_http_thread_restarts_total')).toBe(0);
});
