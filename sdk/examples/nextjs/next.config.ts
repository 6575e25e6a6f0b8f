import type { NextConfig } from 'next';

const config: NextConfig = {
  // The example stands in a repository with other lock files.
  turbopack: { root: import.meta.dirname },
  // Development may be looked at through either name.
  allowedDevOrigins: ['127.0.0.1', 'localhost'],
  devIndicators: false,
};

export default config;
