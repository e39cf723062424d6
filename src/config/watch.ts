// Tells when the directory of boot profiles changes, also when it is itself moved away, removed or replaced.
import { statSync, watch, type FSWatcher } from 'node:fs';
import { basename } from 'node:path';
import { isProfileName } from './profiles.ts';

/** One save is four events and more (a temporary file, a rename, a change of mode); this long after the last one it is over. */
const QUIET_MS = 150;
/** Whoever writes without a pause is heard after this long. */
const PATIENCE_MS = 2_000;
/** How often we look whether the path still leads to the directory that is being watched; a watch dies with its directory, silently. */
const LOOK_MS = 1_000;

/**
 * Calls `onChange` once for each burst of changes to profiles. The directory may be missing at first or for a while. It is watched
 * instead of its files, because a watched file goes deaf at its first replacement. Networked file systems report nothing: there,
 * `rackseed reload` is the way.
 */
export function watchProfiles(dir: string, onChange: () => void): { close(): void } {
  let watcher: FSWatcher | undefined;
  let watched: string | undefined;
  let seen = identityOf(dir);
  let quiet: NodeJS.Timeout | undefined;
  let firstAt = 0;

  const fire = (): void => {
    quiet = undefined;
    onChange();
  };
  const changed = (): void => {
    const now = Date.now();
    if (quiet) clearTimeout(quiet);
    else firstAt = now;
    quiet = setTimeout(fire, Math.max(0, Math.min(QUIET_MS, firstAt + PATIENCE_MS - now)));
  };
  const disarm = (): void => {
    watcher?.close();
    [watcher, watched] = [undefined, undefined];
  };
  const arm = (): void => {
    const identity = identityOf(dir);
    if (identity !== seen) changed();
    seen = identity;
    if (identity === watched) return;
    disarm();
    if (identity === undefined) return;
    try {
      watcher = watch(dir, heard).on('error', disarm);
      watched = identity;
    } catch {
      // Gone between the look and the watch, or no inotify watch left: the next look tries again.
    }
  };
  const heard = (_event: string, name: string | null): void => {
    // The directory's own name: it was moved or removed, and its inode number may come again in the next one.
    if (name === basename(dir)) {
      disarm();
      changed();
      arm();
    } else if (name === null || isProfileName(name) || name === '..data') {
      changed(); // `..data` is how a Kubernetes ConfigMap swaps all its files at once
    }
  };

  arm();
  const look = setInterval(arm, LOOK_MS).unref();
  return {
    close() {
      clearInterval(look);
      if (quiet) clearTimeout(quiet);
      disarm();
    },
  };
}

function identityOf(dir: string): string | undefined {
  try {
    const stat = statSync(dir, { bigint: true });
    return stat.isDirectory() ? `${stat.dev}:${stat.ino}:${stat.birthtimeNs}` : undefined;
  } catch {
    return undefined;
  }
}
