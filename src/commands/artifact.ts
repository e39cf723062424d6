// `rackseed artifact add|list`: files that nodes need beside the image, by name and version.
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readSettings } from '../config/settings.ts';
import { isDigest, type Digest } from '../digest.ts';
import { AppError } from '../errors.ts';
import { createArtifactStore, type Artifact } from '../store/artifacts.ts';
import { createBlobStore } from '../store/blobs.ts';
import { openDatabase } from '../store/db.ts';
import { bytes, duration, render, type Column, type Format } from './output.ts';
import { progressBar } from './progress.ts';

const COLUMNS: readonly Column<Artifact>[] = [
  { title: 'NAME', of: (artifact) => artifact.name },
  { title: 'VERSION', of: (artifact) => artifact.version },
  { title: 'SIZE', of: (artifact) => bytes(artifact.size) },
  { title: 'AGE', of: (artifact) => duration(Date.now() - artifact.addedAt) },
  { title: 'DIGEST', of: (artifact) => artifact.digest, wide: true },
];

export interface AddArtifact {
  readonly stateDir: string;
  readonly name: string;
  readonly version: string;
  readonly file: string;
  /** Checked when given: 64 hex digits, with or without `sha256:`. */
  readonly sha256?: string;
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Copies the file into the blob store and writes it down as `name: version`. Works beside a running daemon; nothing that boots
 * changes before a profile names the version. ARTIFACT_INVALID when the file is not readable, is empty or has another sha256.
 */
export async function addArtifact(add: AddArtifact): Promise<Artifact> {
  if (!/^[a-z0-9][a-z0-9._-]*$/.test(add.name)) throw new AppError('ARTIFACT_INVALID', `${add.name} is not an artifact name`, 'small letters, digits, dot, dash, underscore');
  if (!/^[0-9A-Za-z][0-9A-Za-z.+_-]*$/.test(add.version)) throw new AppError('ARTIFACT_INVALID', `${add.version} is not a version`, 'such as v1.36.1+k0s.0');
  const expected = add.sha256 === undefined ? undefined : digestFrom(add.sha256);
  const size = await stat(add.file).then(
    (found) => (found.isFile() ? found.size : undefined),
    () => undefined,
  );
  if (!size) throw new AppError('ARTIFACT_INVALID', `${add.file}: ${size === 0 ? 'the file is empty' : 'no such file'}`, 'name a file that this user can read');
  const blob = await createBlobStore(add.stateDir).add(add.file, expected ? { digest: expected } : undefined, (done) => add.onProgress?.(done, size));
  const database = openDatabase(join(add.stateDir, 'rackseed.db'));
  try {
    const artifact: Artifact = { name: add.name, version: add.version, digest: blob.digest, size: blob.size, addedAt: Date.now() };
    await createArtifactStore(database).add(artifact);
    return artifact;
  } finally {
    await database.close();
  }
}

export async function artifactAdd(
  name: string,
  file: string,
  options: { readonly config?: string; readonly version: string; readonly sha256?: string; readonly output: Format },
): Promise<string> {
  const { stateDir } = readSettings(options.config);
  const { onProgress, stop } = progressBar(`adding ${name} ${options.version}`);
  const artifact = await addArtifact({ stateDir, name, file, version: options.version, ...(options.sha256 ? { sha256: options.sha256 } : {}), onProgress }).finally(stop);
  return render(options.output, artifact, [artifact], COLUMNS);
}

export async function artifactList(options: { readonly config?: string; readonly output: Format }): Promise<string> {
  const database = openDatabase(join(readSettings(options.config).stateDir, 'rackseed.db'));
  try {
    const artifacts = await createArtifactStore(database).list();
    return render(options.output, { artifacts }, artifacts, COLUMNS);
  } finally {
    await database.close();
  }
}

function digestFrom(text: string): Digest {
  const digest = text.startsWith('sha256:') ? text.toLowerCase() : `sha256:${text.toLowerCase()}`;
  if (!isDigest(digest)) throw new AppError('USAGE', `${text} is not a sha256`, '64 hex digits');
  return digest;
}
