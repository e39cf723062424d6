// What TFTP serves, for tests: the real Booter on a real database, real blobs and loaders in a directory of their own, and secrets right beside them.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Ip4, Mac } from '../src/addr.ts';
import type { Node } from '../src/boot/node.ts';
import type { BlobRef, BootSet, Generation } from '../src/boot/profile.ts';
import type { Serve } from '../src/boot/request.ts';
import { createBooter, type Booter } from '../src/booter.ts';
import { digestOfValue } from '../src/digest.ts';
import { loadLoaders, type Loaders } from '../src/loaders.ts';
import { createLog } from '../src/log.ts';
import { createBlobStore } from '../src/store/blobs.ts';
import { createBootStore, type BootStore } from '../src/store/boots.ts';
import { openDatabase } from '../src/store/db.ts';
import { createEventStore } from '../src/store/events.ts';
import { createLeaseStore } from '../src/store/leases.ts';
import { createNodeStore } from '../src/store/nodes.ts';
import { createVerifiedBlobs, type VerifiedBlobs } from '../src/store/verified.ts';
import { createFileCache, FILE_CACHE_BYTES } from '../src/tftp/file-cache.ts';
import { bootFiles, type TftpFiles } from '../src/tftp/files.ts';

/** n1 has two cards, n2 is another node, d1 boots from its disk; the stranger is nobody's. */
export const MACS = { n1: '52:54:00:00:00:01', n1b: '52:54:00:00:00:a1', n2: '52:54:00:00:00:02', d1: '52:54:00:00:00:04', stranger: '52:54:00:00:00:99' } as const;
/** Stands in files that no request may ever bring: any answer that has it came from outside. */
export const SECRET = 'RACKSEED-SECRET-7f3a';

export interface TftpWorld {
  readonly dir: string;
  readonly stateDir: string;
  readonly loadersDir: string;
  readonly booter: Booter;
  readonly boots: BootStore;
  readonly loaders: Loaders;
  readonly files: TftpFiles;
  readonly rotten: string[];
  /** What each name holds. */
  readonly content: { readonly loader: Buffer; readonly kernel: Buffer; readonly initrd: Buffer; readonly newKernel: Buffer };
  readonly ips: Readonly<Record<'n1' | 'n2' | 'd1' | 'stranger', Ip4>>;
  readonly blobs: VerifiedBlobs;
  readonly image: { readonly kernel: BlobRef; readonly initrds: readonly BlobRef[]; readonly newKernel: BlobRef };
  /** A DISCOVER and the lease of its address: the node has an open boot. */
  boot(node: 'n1' | 'n2'): Promise<string>;
  /** The profile gets another image: what an operator's edit does. */
  swap(): void;
  /** The node's lines are taken out of the YAML. */
  forget(node: 'n1' | 'n2'): void;
  open(name: string, from: string, serve?: Serve): ReturnType<TftpFiles['open']>;
  close(): Promise<void>;
}

export interface TftpWorldOptions {
  /** The first three bytes of all addresses; default `10.77.0`. */
  readonly net?: string;
  readonly cacheBytes?: number;
  /** Makes other loaders than the plain files. */
  readonly prepareLoaders?: (dir: string) => void;
}

export async function startTftpWorld({ net = '10.77.0', cacheBytes = FILE_CACHE_BYTES, prepareLoaders }: TftpWorldOptions = {}): Promise<TftpWorld> {
  const dir = mkdtempSync(join(tmpdir(), 'rackseed-tftp-world-'));
  const [stateDir, loadersDir] = [join(dir, 'state'), join(dir, 'loaders')];
  mkdirSync(loadersDir);
  const content = { loader: filled(70_001, 'undionly'), kernel: filled(30_000, 'kernel'), initrd: Buffer.concat([filled(5_000, 'initrd one'), filled(512 * 20, 'initrd two')]), newKernel: filled(1_024, 'new kernel') };
  writeFileSync(join(loadersDir, 'undionly.kpxe'), content.loader);
  writeFileSync(join(loadersDir, 'snponly.efi'), filled(1_000, 'snponly'));
  for (const place of [dir, loadersDir, stateDir, join(stateDir, 'blobs')]) {
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, 'secret'), SECRET);
  }
  prepareLoaders?.(loadersDir);
  const store = createBlobStore(stateDir);
  const add = (bytes: Buffer) => store.add(Readable.from([bytes]));
  const [kernel, first, second, newKernel] = [await add(content.kernel), await add(content.initrd.subarray(0, 5_000)), await add(content.initrd.subarray(5_000)), await add(content.newKernel)];
  const setOf = (kernelRef: BlobRef): BootSet => ({
    image: { name: 'debian', digest: kernelRef.digest, arch: 'amd64', kernel: kernelRef, initrds: [first, second], squashfs: second },
    cmdline: ['console=ttyS0'],
    root: { state: 'none' },
    artifacts: {},
    vars: {},
  });
  const [old, next] = [setOf(kernel), setOf(newKernel)];
  const ips = { n1: `${net}.11`, n2: `${net}.12`, d1: `${net}.14`, stranger: `${net}.99` };
  const node = (name: 'n1' | 'n2' | 'd1', macs: readonly Mac[], profile: string): Node => ({ name, macs, ip: ips[name], labels: {}, vars: {}, exit: 'exit', profile, source: 'yaml' });
  const nodes = { n1: node('n1', [MACS.n1, MACS.n1b], 'k0s'), n2: node('n2', [MACS.n2], 'k0s'), d1: node('d1', [MACS.d1], 'disk') };
  const generationWith = (bootSet: BootSet): Generation => ({
    id: digestOfValue(bootSet),
    profiles: { k0s: { name: 'k0s', bootSet: digestOfValue(bootSet) }, disk: { name: 'disk' } },
    bootSets: { [digestOfValue(bootSet)]: bootSet },
    nodes,
    nodeByMac: Object.fromEntries(Object.values(nodes).flatMap(({ name, macs }) => macs.map((mac) => [mac, name]))),
    nodeByIp: Object.fromEntries(Object.values(nodes).map(({ name, ip }) => [ip!, name])),
  });
  let generation = generationWith(old);

  const database = openDatabase(join(dir, 'db'));
  const boots = createBootStore(database);
  const booter = createBooter({ generation: () => generation, nodes: createNodeStore(database), leases: createLeaseStore(database), boots, events: createEventStore(database), log: createLog('silent'), now: Date.now });
  const loaders = await loadLoaders(loadersDir);
  const rotten: string[] = [];
  const blobs = createVerifiedBlobs({ stateDir, onRotten: (digest) => rotten.push(digest) });
  const files = bootFiles({ loaders, booter, cache: createFileCache(blobs, cacheBytes), httpPort: 8080 });
  return {
    dir,
    stateDir,
    loadersDir,
    booter,
    boots,
    loaders,
    files,
    rotten,
    content,
    ips,
    blobs,
    image: { kernel, initrds: [first, second], newKernel },
    async boot(name) {
      const { boot } = await booter.ask({ via: 'dhcp', message: 'discover', asker: 'ipxe', mac: MACS[name], arch: 'amd64', firmware: 'bios', features: ['http', 'bzimage'] });
      await booter.leased(boot!.id, ips[name], MACS[name]);
      return boot!.id;
    },
    swap: () => void (generation = generationWith(next)),
    forget(name) {
      const { [name]: gone, ...left } = generation.nodes;
      const without = (index: Readonly<Record<string, string>>) => Object.fromEntries(Object.entries(index).filter(([, of]) => of !== gone!.name));
      generation = { ...generation, nodes: left, nodeByMac: without(generation.nodeByMac), nodeByIp: without(generation.nodeByIp) };
    },
    open: (name, from, serve = 'known') => files.open(name, { peer: from, local: from.includes(':') ? 'fd00:77::1' : `${net}.1`, serve }),
    async close() {
      await database.close();
      rmSync(dir, { recursive: true });
    },
  };
}

/** Bytes that no other file has, and that differ from place to place. */
function filled(length: number, seed: string): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at++) bytes[at] = seed.charCodeAt(at % seed.length) * (at + 1) + (at >> 8);
  return bytes;
}
