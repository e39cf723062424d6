// `rackseed serve`: the daemon in the foreground, until SIGTERM or SIGINT; SIGHUP reads the profiles again.
import { once } from 'node:events';
import { readSettings } from '../config/settings.ts';
import { startDaemon } from '../daemon.ts';
import { createLog } from '../log.ts';

export async function serve(options: { readonly config?: string }): Promise<void> {
  const settings = readSettings(options.config);
  const log = createLog(settings.logLevel);
  const daemon = await startDaemon(settings, log);
  process.on('SIGHUP', () => void daemon.reload('SIGHUP').catch(() => undefined));
  const [signal] = (await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')])) as [string];
  log.info({ signal }, 'rackseed stops');
  await daemon.stop();
}
