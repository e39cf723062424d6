// A directory of keys that are made once: there whole or not at all, and never in place of others.
import { lstatSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { AppError } from '../errors.ts';

export interface NewKeyDirectory {
  /** Where the keys are written to; 0700. */
  readonly temp: string;
  /** All are written: it becomes the directory. */
  keep(): void;
  /** Takes away what was not kept. */
  close(): void;
}

/** USAGE when `dir` has anything in it or is no directory. */
export function newKeyDirectory(dir: string): NewKeyDirectory {
  const there = lstatSync(dir, { throwIfNoEntry: false });
  if (there && !there.isDirectory()) throw new AppError('USAGE', `${dir} is no directory`, 'name a new or empty one with --dir');
  if (there && readdirSync(dir).length > 0) throw new AppError('USAGE', `${dir} is not empty`, 'keys are never overwritten: name another directory with --dir');
  mkdirSync(dirname(dir), { recursive: true });
  const temp = `${dir}.${process.pid}.new`;
  // Not readable by others for a moment either, whatever the umask.
  mkdirSync(temp, { mode: 0o700 });
  return {
    temp,
    // Over an empty directory only.
    keep: () => renameSync(temp, dir),
    close: () => rmSync(temp, { recursive: true, force: true }),
  };
}
