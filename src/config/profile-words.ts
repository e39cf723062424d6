// Single values of boot profiles: text in one line, text of a pattern, true or false; whatever YAML takes them for.
import { z } from 'zod';

/** A number or boolean keeps the text it was written in (see document.ts); the editor's schema lets it pass unquoted. */
export const text = z.union([z.string(), z.number(), z.boolean()]).transform(String);

export const line = text.refine((value) => !/[\u0000-\u001f\u007f]/.test(value), 'must be one line without control characters');

/** The pattern goes into the editor's schema too, which a refinement alone does not. */
export const matching = (pattern: RegExp, message: string) => text.refine((value) => pattern.test(value), message).meta({ pattern: pattern.source });

/** true or false, which are text by now. */
export const flag = text
  .refine((value) => value === 'true' || value === 'false', 'must be true or false')
  .meta({ type: 'boolean' })
  .transform((value) => value === 'true');
