// What the node agent tells of a failed onboot step. systemctl and journalctl are stand-ins, because no systemd runs here.
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

const AGENT = new URL('../../images/common/root/usr/lib/rackseed/agent', import.meta.url).pathname;

let server: Server;
let dir: string;
let reports: { query: string; tail: string; token: string | undefined }[];
beforeEach(async () => {
  reports = [];
  dir = mkdtempSync(join(tmpdir(), 'rackseed-onboot-'));
  server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const url = new URL(request.url!, 'http://x');
      reports.push({ query: [url.pathname, ...url.searchParams.values()].join(' | '), tail: Buffer.concat(chunks).toString(), token: request.headers.authorization });
      response.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  mkdirSync(join(dir, 'run'));
  mkdirSync(join(dir, 'bin'));
  for (const [name, value] of Object.entries({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, boot: 'B1', token: 'T1' })) writeFileSync(join(dir, 'run', name), `${value}\n`);
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

function program(name: string, text: string): void {
  writeFileSync(join(dir, 'bin', name), `#!/bin/sh\n${text}\n`);
  chmodSync(join(dir, 'bin', name), 0o755);
}

function agent(...args: string[]): Promise<{ code: number; stdout: string }> {
  const env = { PATH: `${join(dir, 'bin')}:${process.env['PATH'] ?? ''}`, AGENT_RUN: join(dir, 'run'), AGENT_BACKOFF: '0' };
  return new Promise((resolve) => execFile('sh', [AGENT, ...args], { env }, (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? 255) : 0, stdout: stdout + stderr })));
}

test('it ends the boot as failed, by name, with its last line and its output', async () => {
  program('systemctl', '[ "$*" = "show --property=Result --value rackseed-onboot-raid.service" ] && echo exit-code');
  program('journalctl', 'case "$*" in *--unit=rackseed-onboot-raid.service*) printf "looking\\nno disk with that label\\n" ;; esac');
  const ran = await agent('onboot', 'raid');
  expect([ran.code, ran.stdout]).toEqual([1, 'rackseed: failed: onboot raid: no disk with that label\n']);
  expect(reports).toEqual([{ query: '/boots/B1/report | failed | failed | onboot raid: no disk with that label', tail: 'looking\nno disk with that label\n', token: 'Bearer T1' }]);
});

test('that never ran, because an earlier one failed, it tells nothing', async () => {
  program('systemctl', 'echo success');
  expect([(await agent('onboot', 'raid')).code, reports]).toEqual([0, []]);
});

test('whose last words are not in the journal yet is asked for them again', async () => {
  program('systemctl', 'echo exit-code');
  program('journalctl', `case "$*" in *--unit=*) if [ -e "${join(dir, 'asked')}" ]; then echo "no disk"; else : >"${join(dir, 'asked')}"; fi ;; esac`);
  await agent('onboot', 'raid');
  expect(reports.map(({ query }) => query)).toEqual(['/boots/B1/report | failed | failed | onboot raid: no disk']);
});

test('without any output says that', async () => {
  program('systemctl', 'echo timeout');
  program('journalctl', ':');
  await agent('onboot', 'raid');
  expect(reports.map(({ query }) => query)).toEqual(['/boots/B1/report | failed | failed | onboot raid: it ended without any output']);
});
