// Giving root up once the ports are bound.
import { closeSync, constants, lchownSync, lstatSync, openSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { AppError } from './errors.ts';
import type { Log } from './log.ts';

export const DEFAULT_USER = 'rackseed';

interface User {
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

export interface BecomeParts {
  /** Given to the user, with all that is in it. */
  readonly stateDir: string;
  readonly log: Log;
}

/**
 * From root to `user`, for good: its uid, gid and groups, and no capability. `user` as the settings have it: null stays root; undefined is
 * DEFAULT_USER where there is one. Does nothing when we are not root, or are it in a user namespace where the user does not exist.
 * CONFIG_INVALID when a user is named that does not exist.
 */
export function becomeUser(user: string | null | undefined, { stateDir, log }: BecomeParts): void {
  if (process.getuid?.() !== 0 || user === null) return;
  const name = user ?? DEFAULT_USER;
  const found = findUser(name);
  if (!found) {
    const hint = `useradd --system --home-dir /var/lib/rackseed --shell /usr/sbin/nologin ${name}`;
    if (user !== undefined) throw new AppError('CONFIG_INVALID', `user: there is no user ${name} in /etc/passwd`, `\`${hint}\`; or user: null, which stays root`);
    // Root of a user namespace only is no more than the user who made it.
    return void log[isMapped('uid', 2 ** 32 - 2) ? 'warn' : 'debug']({ hint }, `there is no user ${name}: the daemon goes on as root`);
  }
  const { uid, gid, home } = found;
  if (uid === 0) return;
  if (!isMapped('uid', uid) || !isMapped('gid', gid)) return void log.debug({ user: name, uid, gid }, 'this user namespace has no such user, the daemon stays its root');
  giveAway(realpathSync(stateDir), uid, gid);
  // Not in the types of Node 20.
  (process as unknown as { initgroups(user: string, group: number): void }).initgroups(name, gid);
  process.setgid!(gid);
  process.setuid!(uid);
  // Programs that we start must not look for their settings in root's home.
  Object.assign(process.env, { HOME: home, USER: name, LOGNAME: name });
  log.info({ user: name, uid, gid }, 'root is given up');
}

function findUser(name: string): User | undefined {
  const line = readFileSync('/etc/passwd', 'utf8').split('\n').find((one) => one.startsWith(`${name}:`));
  if (line === undefined) return undefined;
  const [, , uid, gid, , home] = line.split(':');
  return { uid: Number(uid), gid: Number(gid), home: home || '/' };
}

/** Whether the number stands for anybody in our user namespace: `first-inside first-outside count` a line. */
function isMapped(what: 'uid' | 'gid', id: number): boolean {
  const ranges = readFileSync(`/proc/self/${what}_map`, 'utf8').trim().split('\n').map((line) => line.trim().split(/\s+/).map(Number));
  return ranges.some(([first = 0, , count = 0]) => id >= first && id < first + count);
}

/**
 * Gives a directory and all in it away; what is the user's already is not touched. Each directory is entered by its file descriptor and no link is
 * followed, so that nobody who may write in there can point us at a file elsewhere. `below`: the way here from the state directory.
 */
function giveAway(dir: string, uid: number, gid: number, below = ''): void {
  const fd = openSync(dir, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    const here = `/proc/self/fd/${fd}`;
    give(`${here}/.`, uid, gid);
    for (const name of readdirSync(here)) {
      const path = `${below}/${name}`;
      // The root of an image that is being built: who owns its files is what nodes get.
      if (path.startsWith('/tmp/image-')) continue;
      if (give(`${here}/${name}`, uid, gid) === 'directory') giveAway(`${here}/${name}`, uid, gid, path);
    }
  } finally {
    closeSync(fd);
  }
}

function give(path: string, uid: number, gid: number): 'directory' | 'other' {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  // Downloads come and go while another rackseed command runs.
  if (!stat) return 'other';
  if (stat.uid !== uid || stat.gid !== gid) lchownSync(path, uid, gid);
  return stat.isDirectory() ? 'directory' : 'other';
}
