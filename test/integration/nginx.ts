// Debian's nginx with the server block that we document, for a directory that `rackseed blob export` filled.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';

/** Unpacked by the bootstrap (src/setup/unpacked.mjs), or installed; undefined: neither. */
export const NGINX = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin'].map((place) => join(place, 'nginx')).find((program) => existsSync(program));
/** What a test says that is skipped without it. */
export const NO_NGINX = 'the package nginx is neither installed nor unpacked';
/** As in packaging/nginx/rackseed-blobs.conf. */
export const NGINX_PORT = 8090;

export interface Nginx {
  stop(): Promise<void>;
}

/** Serves `files` on every address; its own files go to `home`, which is the caller's to remove. Resolves once it listens. */
export async function startNginx(home: string, files: string): Promise<Nginx> {
  mkdirSync(join(home, 'tmp'));
  const ours = readFileSync(new URL('../../packaging/nginx/rackseed-blobs.conf', import.meta.url), 'utf8');
  expect(ours).toContain('root /srv/rackseed;');
  expect(ours).toContain(`listen ${NGINX_PORT};`);
  writeFileSync(join(home, 'blobs.conf'), ours.replace('root /srv/rackseed;', `root ${files};`));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((what) => `${what}_temp_path ${home}/tmp/${what};`).join(' ');
  writeFileSync(join(home, 'nginx.conf'), `daemon off; user root; pid ${home}/pid; error_log stderr; events {} http { log_format asked '$remote_addr $status $uri'; access_log ${accessLog(home)} asked; ${temporary} include ${home}/blobs.conf; }\n`);
  const child = spawn(NGINX!, ['-e', 'stderr', '-p', home, '-c', join(home, 'nginx.conf')], { stdio: ['ignore', 'ignore', 'inherit'] });
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
  };
  for (let tries = 0; !(await listens()); tries += 1) {
    if (tries > 100 || child.exitCode !== null) {
      await stop();
      throw new Error('nginx does not listen');
    }
    await sleep(50);
  }
  return { stop };
}

/** One line a request: `<address> <status> <path>`. */
export function accessLog(home: string): string {
  return join(home, 'access.log');
}

function listens(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(NGINX_PORT, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
