// The shipped post-boot/ directory as one commit: the same files have the same commit id on every daemon.
import { lstat, readdir, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { git } from './git.ts';

/** Fixed, because they are part of the commit's id. Changing one changes the commit of every shipped version. */
const IDENTITY = {
  GIT_AUTHOR_NAME: 'rackseed',
  GIT_AUTHOR_EMAIL: 'rackseed@localhost',
  GIT_AUTHOR_DATE: '1735689600 +0000',
  GIT_COMMITTER_NAME: 'rackseed',
  GIT_COMMITTER_EMAIL: 'rackseed@localhost',
  GIT_COMMITTER_DATE: '1735689600 +0000',
} as const;
const MESSAGE = 'post-boot scripts shipped with rackseed\n';

interface ShippedFile {
  /** Relative to the directory, with slashes. */
  readonly path: string;
  readonly mode: '100644' | '100755' | '120000';
  /** Of a symbolic link. */
  readonly target?: string;
}

/**
 * Writes `directory` as a commit without parents into the bare repository and points `main` at it; answers the commit's id. Only
 * plumbing is used, so neither Git's settings, nor filters, nor the umask, nor the order of the file system can change the id.
 */
export async function commitDirectory(bare: string, directory: string, env: NodeJS.ProcessEnv): Promise<string> {
  const files = await listFiles(directory, '');
  if (files.length === 0) throw new AppError('GIT_FAILED', `${directory}: no post-boot scripts in it`, 'the installation is incomplete: post-boot/ belongs to it');
  const regular = files.filter((file) => file.target === undefined);
  const hashes = await git(bare, ['hash-object', '-w', '--no-filters', '--stdin-paths'], { env, input: regular.map((file) => `${join(directory, file.path)}\n`).join('') });
  const ids = new Map(hashes.trim().split('\n').map((id, index) => [regular[index]?.path, id]));
  for (const link of files) {
    if (link.target === undefined) continue;
    ids.set(link.path, (await git(bare, ['hash-object', '-w', '--no-filters', '--stdin'], { env, input: link.target })).trim());
  }
  const index = join(bare, `shipped-${process.pid}.index`);
  try {
    const indexed = { ...env, GIT_INDEX_FILE: index };
    await git(bare, ['update-index', '--add', '--index-info'], { env: indexed, input: files.map((file) => `${file.mode} ${ids.get(file.path)}\t${file.path}\n`).join('') });
    const tree = (await git(bare, ['write-tree'], { env: indexed })).trim();
    const commit = (await git(bare, ['commit-tree', tree], { env: { ...env, ...IDENTITY }, input: MESSAGE })).trim();
    await git(bare, ['update-ref', 'refs/heads/main', commit], { env });
    return commit;
  } finally {
    await rm(index, { force: true });
  }
}

async function listFiles(directory: string, under: string): Promise<ShippedFile[]> {
  const names = (await readdir(join(directory, under))).sort();
  const found: ShippedFile[] = [];
  for (const name of names) {
    if (name === '.git') continue;
    const path = under ? `${under}/${name}` : name;
    // Git's index lines end at a newline and its quoting starts with a double quote: such names have no place in a script repository.
    if (/["\n\\]/.test(path)) throw new AppError('GIT_FAILED', `${directory}: a file name with a quote, backslash or newline in it`, 'rename it');
    const stat = await lstat(join(directory, path));
    if (stat.isDirectory()) found.push(...(await listFiles(directory, path)));
    else if (stat.isSymbolicLink()) found.push({ path, mode: '120000', target: await readlink(join(directory, path)) });
    else if (stat.isFile()) found.push({ path, mode: stat.mode & 0o100 ? '100755' : '100644' });
    else throw new AppError('GIT_FAILED', `${join(directory, path)}: neither a file, a directory nor a link`, 'remove it');
  }
  return found;
}
