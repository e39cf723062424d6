// A progress bar on stderr, for work that people wait for; silent where nobody watches.
import cliProgress from 'cli-progress';

export interface Progress {
  readonly onProgress: (done: number, total: number) => void;
  readonly stop: () => void;
}

/** Counts bytes, or with `percent` whatever the caller counts. Draws nothing when `stream` is no terminal: logs of CI are no place for carriage returns. */
export function progressBar(title: string, unit: 'MiB' | 'percent' = 'MiB', stream: NodeJS.WriteStream = process.stderr): Progress {
  if (!stream.isTTY) return { onProgress: () => undefined, stop: () => undefined };
  const bar = new cliProgress.SingleBar({
    stream,
    format: `${title} [{bar}] {percentage}%${unit === 'MiB' ? ' {value}/{total} MiB' : ''}`,
    barCompleteChar: '#',
    barIncompleteChar: '-',
    hideCursor: true,
    clearOnComplete: true,
  });
  let started = false;
  const mib = (n: number): number => (unit === 'MiB' ? Math.round(n / 1024 / 1024) : Math.round(n));
  return {
    onProgress(done, total) {
      if (!started) bar.start(Math.max(1, mib(total)), 0);
      started = true;
      bar.update(mib(done));
    },
    stop: () => void (started && bar.stop()),
  };
}
