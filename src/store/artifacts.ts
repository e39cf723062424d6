// Artifacts: which version of a file that nodes need has which content. The bytes are in the blob store.
import type { Digest } from '../digest.ts';

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
