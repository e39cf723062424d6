// The daemon as a child of the lab: started inside the namespace, asked over its Unix socket, reachable from the host by a forwarded port.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { get } from 'node:http';
import { connect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '../errors.ts';
import { dieWithUs, ended, stop } from './child.ts';
import type { Namespace } from './network.ts';
import type { Site } from './site.ts';

/** The compiled program, right from src/lab/ and from dist/lab/. */
const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const READY_WITHIN_MS = 60_000;
/** How long a daemon that answers may say that it is not ready before its reason is believed. */
const UNREADY_FOR_MS = 3_000;

export interface LabDaemon {
  readonly pid: number;
  /** Its log, JSON lines. */
  readonly log: string;
  get<T>(path: string): Promise<{ readonly status: number; readonly body: T }>;
  /** Resolves when the daemon has ended: with its last line when nobody asked it to. */
  readonly exited: Promise<string | undefined>;
  stop(): Promise<void>;
}

/** Resolves when /readyz says yes; LAB_FAILED with the daemon's own last line, or its reasons, when it does not. */
export async function startLabDaemon(ns: Namespace, site: Site): Promise<LabDaemon> {
  const log = join(site.dir, 'daemon.log');
  const file = openSync(log, 'a');
  const [program, ...args] = ns.wrap(dieWithUs([process.execPath, CLI, '--config', site.settingsFile, 'serve']));
  const child = spawn(program!, args, { stdio: ['ignore', file, file] });
  closeSync(file);
  let asked = false;
  let over = false;
  const exited = ended(child).then(async (how) => {
    over = true;
    return asked ? undefined : ((await lastLine(log)) ?? how);
  });
  const daemon: LabDaemon = {
    pid: child.pid ?? 0,
    log,
    get: (path) => getJson(site.socket, path),
    exited,
    stop() {
      asked = true;
      return stop(child);
    },
  };
  const deadline = Date.now() + READY_WITHIN_MS;
  let answeredAt: number | undefined;
  for (;;) {
    if (over) throw new AppError('LAB_FAILED', `the daemon ended before it was ready: ${await exited}`);
    const answer = await daemon.get<{ reasons?: { what: string }[] }>('/readyz').catch(() => undefined);
    if (answer?.status === 200) return daemon;
    if (answer) answeredAt ??= Date.now();
    if (Date.now() > deadline || (answeredAt !== undefined && Date.now() - answeredAt > UNREADY_FOR_MS)) {
      await daemon.stop();
      const reasons = answer?.body.reasons?.map(({ what }) => what).join('; ');
      throw new AppError('LAB_FAILED', `the daemon did not get ready: ${reasons ?? (await lastLine(log)) ?? 'it said nothing'}`);
    }
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 50)), exited]);
  }
}

export interface Forward {
  readonly url: string;
  close(): Promise<void>;
}

/** `http://127.0.0.1:<free port>` on the host, joined to the daemon's Unix socket: the namespace has no way out, and needs none. */
export async function forwardApi(socket: string): Promise<Forward> {
  const open = new Set<{ destroy(): void }>();
  const server = createServer((client) => {
    const daemon = connect(socket);
    for (const end of [client, daemon]) {
      open.add(end);
      end.once('close', () => open.delete(end));
      // Either end may break at any time; the other one then ends too.
      end.on('error', () => (client.destroy(), daemon.destroy()));
    }
    client.pipe(daemon).pipe(client);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async close() {
      const closed = once(server, 'close');
      server.close();
      for (const end of open) end.destroy();
      await closed;
    },
  };
}

/** The last line of the daemon's log that says something, as a person would write it. */
export async function lastLine(log: string): Promise<string | undefined> {
  const line = (await readFile(log, 'utf8').catch(() => '')).trimEnd().split('\n').at(-1);
  if (!line) return undefined;
  try {
    const entry = JSON.parse(line) as { msg?: string; err?: { message?: string } };
    return [entry.msg, entry.err?.message].filter(Boolean).join(': ') || line;
  } catch {
    return line;
  }
}

function getJson<T>(socketPath: string, path: string): Promise<{ status: number; body: T }> {
  return new Promise((resolve, reject) => {
    const request = get({ socketPath, path, headers: { host: 'rackseed' }, timeout: 10_000, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (text += chunk));
      response.once('error', reject);
      response.once('end', () => {
        try {
          resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as T });
        } catch (error) {
          reject(error as Error);
        }
      });
    });
    request.once('timeout', () => request.destroy(new Error('no answer within 10 s')));
    request.once('error', reject);
  });
}
