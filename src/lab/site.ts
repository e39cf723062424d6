// One lab run's files: a directory of its own with settings, profiles and database; images and blobs are shared with the other runs.
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { parseDocument, stringify } from 'yaml';
import type { Ip4, Mac } from '../addr.ts';
import { isDigest, type Digest } from '../digest.ts';
import { AppError, lineOf } from '../errors.ts';
import { SHIPPED } from '../shipped.ts';
import { createArtifactStore } from '../store/artifacts.ts';
import { createBlobStore } from '../store/blobs.ts';
import { openDatabase } from '../store/db.ts';
import { LAB_BRIDGE, LAB_POOL, LAB_SERVER_IP, LAB_SUBNET } from './link.ts';

export const LAB_PROFILE = 'k0s-single';
/** The name says what it is, wherever it shows. */
export const STANDIN_VERSION = 'v0.0.0-standin+k0s.0';

/** Which program the nodes get as k0s. */
export interface Release {
  readonly version: string;
  /** A path or an http(s) URL. */
  readonly source: string;
  /** Checked while it is copied; the stand-in is ours and has none. */
  readonly digest?: Digest;
  readonly standin: boolean;
}

export interface SiteNode {
  readonly name: string;
  readonly mac: Mac;
  /** Its reservation; absent where another server gives the addresses. */
  readonly ip?: Ip4;
}

export interface Site {
  readonly dir: string;
  readonly settingsFile: string;
  readonly stateDir: string;
  readonly profilesDir: string;
  /** The API's Unix socket. */
  readonly socket: string;
  remove(): Promise<void>;
}

/**
 * `dhcp:` of the lab's own settings. The namespace is the lab's own: no other server can be in it, and no address in use that the
 * daemon does not know of.
 */
export const LAB_DHCP: object = { mode: 'full', onConflict: 'ignore', subnets: [{ subnet: LAB_SUBNET, interface: LAB_BRIDGE, serverIp: LAB_SERVER_IP, pool: LAB_POOL, conflictCheck: 'off' }] };

export const STANDIN: Release = { version: STANDIN_VERSION, source: SHIPPED.k0sStandin, standin: true };

/** `--k0s` and `--sha256` as a release. The version is in the release's file name, also as `%2B` in a URL. USAGE otherwise. */
export function releaseFrom(source: string, sha256: string | undefined): Release {
  const digest = `sha256:${(sha256 ?? '').replace(/^sha256:/, '').toLowerCase()}`;
  if (!isDigest(digest)) throw new AppError('USAGE', '--k0s needs --sha256 with the 64 hex digits of the release', "the project's release page lists them (sha256sums.txt)");
  const file = basename(source.replaceAll(/%2b/gi, '+'));
  const version = /v\d+\.\d+\.\d+[0-9A-Za-z.-]*\+k0s\.\d+/.exec(file)?.[0];
  if (!version) throw new AppError('USAGE', `cannot tell the version of k0s from the file name ${file}`, 'name it as its release does: k0s-v1.36.1+k0s.0-amd64');
  return { version, source, digest, standin: false };
}

export interface SiteOptions {
  /** `dhcp:` of the daemon's settings; default LAB_DHCP. */
  readonly dhcp?: object;
  /** `loaders.dir` of the daemon's settings; default its own. */
  readonly loadersDir?: string;
  /** The serial line of the machines, as their kernel names it; default the shipped profiles'. */
  readonly serial?: string;
  /** `loader:` of the lab's profile; default the shipped one's. */
  readonly loader?: string;
  /** The bytes so far of a release that is taken over, and the total when it is known. */
  readonly onProgress?: (done: number, total?: number) => void;
  /** Ends a download. */
  readonly signal?: AbortSignal;
}

/**
 * `state` is the lab's directory, `<state>/run/<pid>` the run's. What differs from the shipped profiles: the lab's nodes stand in
 * `k0s-single`, no other profile has any, and `artifacts.k0s` names the release. ARTIFACT_INVALID for
 * a release that is not what its sha256 says, or does not come.
 */
export async function createSite(state: string, nodes: readonly SiteNode[], release: Release, options: SiteOptions = {}): Promise<Site> {
  await dropDeadRuns(state);
  const dir = join(state, 'run', String(process.pid));
  const site: Site = {
    dir,
    settingsFile: join(dir, 'rackseed.yaml'),
    stateDir: join(dir, 'state'),
    profilesDir: join(dir, 'boot-profiles'),
    socket: join(dir, 'api.sock'),
    remove: () => rm(dir, { recursive: true, force: true }),
  };
  if (Buffer.byteLength(join(dir, 'console-n16.sock')) > 107) throw new AppError('LAB_UNAVAILABLE', `${dir}: too long for a Unix socket (107 bytes)`, 'give a shorter directory: --state /tmp/lab');
  try {
    await rm(dir, { recursive: true, force: true });
    await mkdir(site.stateDir, { recursive: true, mode: 0o700 });
    for (const shared of ['blobs', 'images']) {
      await mkdir(join(state, shared), { recursive: true });
      await symlink(join(state, shared), join(site.stateDir, shared));
    }
    await writeFile(site.settingsFile, settingsText(site, options));
    await copyProfiles(site.profilesDir, nodes, release.version, options);
    await addRelease(site.stateDir, release, options);
    return site;
  } catch (error) {
    await site.remove();
    throw error instanceof AppError ? error : new AppError('LAB_UNAVAILABLE', `${dir}: ${lineOf(error)}`, 'can this user write there? --state names another directory', error);
  }
}

function settingsText(site: Site, { dhcp = LAB_DHCP, loadersDir }: SiteOptions): string {
  return stringify({
    stateDir: site.stateDir,
    profiles: site.profilesDir,
    dhcp,
    // Root in that namespace is often this very user, who has no other to become.
    user: null,
    ...(loadersDir === undefined ? {} : { loaders: { dir: loadersDir } }),
    http: { port: 8080 },
    // No TCP port: inside the namespace nobody but the nodes could reach it, and the nodes must not.
    api: { socket: site.socket, port: 0 },
  });
}

async function copyProfiles(to: string, nodes: readonly SiteNode[], k0s: string, { loader, serial = 'ttyS0' }: SiteOptions): Promise<void> {
  await mkdir(to);
  for (const file of await readdir(SHIPPED.bootProfiles)) {
    if (!/\.ya?ml$/.test(file)) continue;
    const text = (await readFile(join(SHIPPED.bootProfiles, file), 'utf8')).replaceAll('console=ttyS0', `console=${serial}`);
    await writeFile(join(to, file), file.startsWith(`${LAB_PROFILE}.`) ? profileText(text, nodes, k0s, loader) : profileText(text, [], k0s));
  }
}

/** A shipped profile as the lab boots it; its comments stay. */
export function profileText(shipped: string, nodes: readonly SiteNode[], k0s: string, loader?: string): string {
  const document = parseDocument(shipped);
  if (document.hasIn(['artifacts', 'k0s'])) document.setIn(['artifacts', 'k0s'], k0s);
  if (loader !== undefined) document.set('loader', loader);
  if (nodes.length === 0) document.delete('nodes');
  else {
    const entries = document.createNode(Object.fromEntries(nodes.map(({ name, mac, ip }) => [name, { macs: [mac], ...(ip ? { ip } : {}), labels: { rack: 'lab' } }])));
    for (const { value } of entries.items) (value as { flow?: boolean }).flow = true;
    document.set('nodes', entries);
  }
  return document.toString({ lineWidth: 0 });
}

async function addRelease(stateDir: string, release: Release, { onProgress, signal }: SiteOptions): Promise<void> {
  if (release.standin && !existsSync(release.source)) throw new AppError('LAB_UNAVAILABLE', `${release.source}: the stand-in of k0s is not there`, 'is the checkout whole? git status');
  const blobs = createBlobStore(stateDir);
  const known = release.digest === undefined ? undefined : await blobs.stat(release.digest);
  const { source, total } = /^https?:/.test(release.source) && !known ? await download(release.source, signal) : { source: release.source };
  const blob = known ?? (await blobs.add(source, release.digest ? { digest: release.digest } : {}, (done) => onProgress?.(done, total)));
  const database = openDatabase(join(stateDir, 'rackseed.db'));
  try {
    await createArtifactStore(database).add({ name: 'k0s', version: release.version, digest: blob.digest, size: blob.size, addedAt: Date.now() });
  } finally {
    await database.close();
  }
}

async function download(url: string, signal?: AbortSignal): Promise<{ source: Readable; total?: number }> {
  const refused = (what: string, error: unknown) => {
    const why = signal?.aborted ? 'the download was interrupted' : `${what}${lineOf((error as Error).cause ?? error)}`;
    return new AppError('ARTIFACT_INVALID', `${url}: ${why}`, 'can this machine reach it? a downloaded file works too: --k0s FILE', error);
  };
  const answer = await fetch(url, signal ? { signal } : {}).catch((error: unknown) => Promise.reject(refused('', error)));
  if (!answer.ok || !answer.body) throw new AppError('ARTIFACT_INVALID', `${url}: HTTP ${answer.status}`, 'is the version spelled as on the release page? + is %2B in URLs');
  // Packed on the way, the length is that of other bytes than those which arrive here.
  const length = answer.headers.has('content-encoding') ? 0 : Number(answer.headers.get('content-length') ?? 0);
  const body = answer.body;
  const pieces = async function* () {
    try {
      yield* body as AsyncIterable<Uint8Array>;
    } catch (error) {
      throw refused('the download broke off: ', error);
    }
  };
  return { source: Readable.from(pieces(), { objectMode: false }), ...(length > 0 ? { total: length } : {}) };
}

/** A lab that was killed by SIGKILL leaves its files; its process id tells. */
async function dropDeadRuns(state: string): Promise<void> {
  for (const name of await readdir(join(state, 'run')).catch(() => [])) {
    if (/^\d+$/.test(name) && !existsSync(`/proc/${name}`)) await rm(join(state, 'run', name), { recursive: true, force: true });
  }
}
