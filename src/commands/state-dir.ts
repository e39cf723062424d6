// What a daemon's state directory knows, for commands that do without the daemon: nothing in it is changed.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Generation } from '../boot/profile.ts';
import { servesUnlisted } from '../config/dhcp-settings.ts';
import type { Compiled } from '../config/generations.ts';
import { compile, type ProfileFile } from '../config/profiles.ts';
import { createResolver } from '../config/resolver.ts';
import type { Settings } from '../config/settings.ts';
import { AppError, lineOf } from '../errors.ts';
import { createImageStore } from '../images/manifest.ts';
import { loaderNames, readLoaderSets, type LoaderSets } from '../loader-sets.ts';
import { createLog } from '../log.ts';
import { createRepos } from '../postboot/repos.ts';
import { SHIPPED } from '../shipped.ts';
import { createArtifactStore } from '../store/artifacts.ts';
import { createBootStore, type BootStore } from '../store/boots.ts';
import type { Database } from '../store/db.ts';
import { createLeaseStore, type LeaseStore } from '../store/leases.ts';
import { createNodeStore, type NodeStore } from '../store/nodes.ts';
import { openReadOnly } from '../store/readonly.ts';

export interface StateDir {
  readonly nodes: NodeStore;
  readonly boots: BootStore;
  readonly leases: LeaseStore;
  readonly loaders: LoaderSets;
  /** The daemon's generation, and since when, in milliseconds since 1970. */
  last(): Promise<{ readonly generation: Generation; readonly at: number } | undefined>;
  /** As the daemon would, but for repositories: those are as they were mirrored last. */
  compile(files: readonly ProfileFile[]): Promise<Compiled>;
  close(): Promise<void>;
}

/** undefined: no daemon has ever run there. STORE_UNUSABLE when its database cannot be read, or is another version's. */
export async function openStateDir(settings: Settings): Promise<StateDir | undefined> {
  const { stateDir, dhcp } = settings;
  const file = join(stateDir, 'rackseed.db');
  if (!existsSync(file)) return undefined;
  const database = openReadOnly(file);
  try {
    const [nodes, boots, leases, artifacts] = storesOf(database, file);
    const loaders = await readLoaderSets({ ...settings.loaders, stateDir });
    const repos = createRepos({ stateDir, shippedDir: SHIPPED.postBoot, repos: settings.repos, log: createLog('silent'), now: Date.now });
    const resolver = createResolver({ images: createImageStore(stateDir), artifacts, repos, loaders: () => loaderNames(loaders) });
    return {
      nodes,
      boots,
      leases,
      loaders,
      async last() {
        const [last, since] = [await nodes.lastGeneration(), await nodes.generation()];
        return last && { generation: last.generation, at: since?.at ?? 0 };
      },
      compile: (files) => compile(files, resolver, dhcp.subnets, servesUnlisted(dhcp)),
      async close() {
        await repos.stop();
        await database.close();
      },
    };
  } catch (error) {
    await database.close();
    throw error;
  }
}

function storesOf(database: Database, file: string) {
  try {
    return [createNodeStore(database), createBootStore(database), createLeaseStore(database), createArtifactStore(database)] as const;
  } catch (error) {
    throw new AppError('STORE_UNUSABLE', `${file} was not made by this version of rackseed: ${lineOf(error)}`, 'start the daemon of this version once (rackseed serve): it brings the database up to date', error);
  }
}
