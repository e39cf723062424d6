// Artifacts: which version of a file that nodes need has which content. The bytes are in the blob store.
import type { Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import type { Database } from './db.ts';

export interface Artifact {
  readonly name: string;
  readonly version: string;
  readonly digest: Digest;
  readonly size: number;
  /** Milliseconds since 1970. */
  readonly addedAt: number;
}

export interface ArtifactStore {
  /** Adding the same content again changes nothing; other content under the same name and version is an ARTIFACT_INVALID AppError. */
  add(artifact: Artifact): Promise<void>;
  get(name: string, version: string): Promise<Artifact | undefined>;
  list(): Promise<readonly Artifact[]>;
}

export function createArtifactStore(db: Database): ArtifactStore {
  const columns = 'name, version, digest, size, added_at AS addedAt';
  const one = db.prepare<[string, string], Artifact>(`SELECT ${columns} FROM artifacts WHERE name = ? AND version = ?`);
  const all = db.prepare<[], Artifact>(`SELECT ${columns} FROM artifacts ORDER BY name, added_at, version`);
  const insert = db.prepare<Artifact>('INSERT INTO artifacts (name, version, digest, size, added_at) VALUES (@name, @version, @digest, @size, @addedAt)');
  return {
    add: (artifact) =>
      db.write(() => {
        const known = one.get(artifact.name, artifact.version);
        if (!known) insert.run(artifact);
        else if (known.digest !== artifact.digest) {
          throw new AppError(
            'ARTIFACT_INVALID',
            `${artifact.name} ${artifact.version} is in the store already, with other content (${known.digest})`,
            'a version never changes: add the new content under a new version',
          );
        }
      }),
    get: async (name, version) => db.read(() => one.get(name, version)),
    list: async () => db.read(() => all.all()),
  };
}
